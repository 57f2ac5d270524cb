"""Contrastive kernels on the GPU that is here, against XLA and torch: numbers first, then time.

    python tests/benchmarks/ops_contrastive.py
    ... --rows 64 --width 48 --platform interpret     # a dry run anywhere; its times mean nothing

Each candidate is checked against float64 before it is timed; what is wrong or fails is reported and
not timed. Time is the median of rounds of calls that the device runs back to back. Bytes of jax are
the compiler's peak of temporaries and results, those of torch its allocator's peak, both beside the
inputs. The last line is JSON.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the card

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.bare import bare_modules

bare_modules()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from fusekit_modules.ops import Target  # noqa: E402
from fusekit_modules.ops.contrastive import cases, floors, gpu, info_nce  # noqa: E402
from fusekit_modules.ops.contrastive.positives import own_only  # noqa: E402
from fusekit_modules.ops.contrastive.scores import Kind, Operands  # noqa: E402
from fusekit_tpu.chips import CHIPS  # noqa: E402
from tests.benchmarks.measuring import machine  # noqa: E402

CHIP = CHIPS["h100"]
SCALE = 1 / 0.07
LIMIT = 1e-2
HOWS = ("naive", "xla", "gpu")
START = time.perf_counter()

FORWARD = {
    "128x128x64 w4 s3": gpu.Blocks(128, 128, 64, 4, 3),
    "128x128x64 w8 s3": gpu.Blocks(128, 128, 64, 8, 3),
    "128x256x64 w8 s3": gpu.Blocks(128, 256, 64, 8, 3),
    "128x256x64 w8 s4": gpu.Blocks(128, 256, 64, 8, 4),
    "128x128x128 w8 s2": gpu.Blocks(128, 128, 128, 8, 2),
}
BACKWARD = {
    "128x128x64 w4 s3": gpu.Blocks(128, 128, 64, 4, 3),
    "128x128x64 w8 s3": gpu.Blocks(128, 128, 64, 8, 3),
    "128x256x64 w8 s3": gpu.Blocks(128, 256, 64, 8, 3),
}


def loss(how: str, target: Target, x: Any, y: Any, scale: Any) -> Any:
    """The mean over both sides."""
    every = jnp.ones(x.shape[0], bool)
    if how == "naive":
        logits = scale * jax.lax.dot(x, y.T, preferred_element_type=jnp.float32)
        own = jnp.diagonal(logits)
        sides = (jax.nn.logsumexp(logits, axis=axis) - own for axis in (0, 1))
        return sum(jnp.mean(side) for side in sides) / 2
    sides = info_nce(x, y, scale, every, every, target=target, forward=how, backward=how)
    return (jnp.mean(sides[0]) + jnp.mean(sides[1])) / 2


def timed(call: Callable[[], Any], ready: Callable[[Any], Any], *, seconds: float = 0.6) -> float:
    """Milliseconds a call."""
    ready(call())
    start = time.perf_counter()
    ready(call())
    once = time.perf_counter() - start
    times = max(1, min(50, int(seconds / 5 / max(once, 1e-6))))
    found = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(times - 1):
            call()
        ready(call())
        found.append((time.perf_counter() - start) / times)
    return 1e3 * statistics.median(found)


class Programs:
    """Compiles several at a time, before anything is timed."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(8)
        self.ready: dict[str, Future[Any]] = {}

    def add(self, name: str, function: Callable[..., Any], *inputs: Any) -> None:
        lower = jax.jit(function).lower
        self.ready[name] = self.pool.submit(lambda: lower(*inputs).compile())

    def measured(self, name: str, *inputs: Any) -> dict[str, Any]:
        """Its time, and its temporaries and results."""
        program = self.ready[name].result()
        memory = program.memory_analysis()
        ms = timed(lambda: program(*inputs), jax.block_until_ready)
        used = memory.temp_size_in_bytes + memory.output_size_in_bytes
        return {"ms": round(ms, 4), "MiB": round(used / 2**20, 1)}


def vectors(rows: int, width: int, dtype: Any) -> tuple[Any, Any, Any]:
    """Pairs that agree somewhat."""
    one, two, noise = jax.random.split(jax.random.key(7), 3)
    x = jax.random.normal(one, (rows, width))
    y = x * jax.random.uniform(two, (rows, 1)) + jax.random.normal(noise, (rows, width))
    x, y = (v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    return x.astype(dtype), y.astype(dtype), jnp.float32(SCALE)


def off(found: Any, due: Any) -> float:
    """How far apart, relative to what is due; a number's is taken for 0.02 at least, since that of
    the scale may stand at its best."""
    found, due = np.asarray(found, np.float64), np.asarray(due, np.float64)
    least = 0 if due.ndim else 0.02
    return float(np.linalg.norm(found - due) / max(np.linalg.norm(due), least, 1e-30))


def exact(given: Operands, rows: Any, columns: Any, grads: Any) -> tuple[list, list]:
    """Both logs of sums and the gradients of a dot product, in float64 by NumPy."""
    x, y = np.asarray(given.x, np.float64), np.asarray(given.y[0], np.float64)
    wanted = np.asarray(rows)[:, None] & np.asarray(columns)[None]
    scores = np.where(wanted, float(given.scale) * x @ y.T, -1e9)
    most = [scores.max(axis, keepdims=True) for axis in (1, 0)]
    sums = [np.exp(scores - m).sum(1 - n, keepdims=True) for n, m in enumerate(most)]
    logs = [m + np.log(s) for m, s in zip(most, sums, strict=True)]
    slope = np.zeros_like(scores)
    both = np.arange(min(slope.shape))
    slope[both, both] = -np.where(wanted[both, both], sum(np.asarray(g)[both] for g in grads), 0)
    for log, grad in zip(
        logs, (np.asarray(grads[0])[:, None], np.asarray(grads[1])[None]), strict=True
    ):
        slope += np.where(wanted, grad * np.exp(scores - log), 0)
    by_scale = np.sum(slope * (x @ y.T))
    scale = float(given.scale)
    ends = [log.reshape(-1) * np.asarray(c) for log, c in zip(logs, (rows, columns), strict=True)]
    return ends, [scale * slope @ y, scale * slope.T @ x, by_scale]


class Check:
    """The kernels with ragged sizes and rows absent, and what is due in float64."""

    def __init__(self, rows: int):
        width = 512 if rows > 64 else 48
        case = cases.Case("check", Kind(), rows + 5, rows - 3, width, 1, "some")
        given, r, c = cases.arrays(case, jnp.bfloat16)
        rng = np.random.default_rng(1)
        grads = tuple(jnp.asarray(rng.random(len(v)) * np.asarray(v), jnp.float32) for v in (r, c))
        self.logs, self.due = exact(given, r, c, grads)
        pair = tuple(jnp.asarray(log, jnp.float32) for log in self.logs)
        self.inputs: dict[str, Any] = {"forward": (given, r, c)}
        self.inputs["backward"] = (given, r, c, own_only(r, c, jnp.float32), pair, grads)

    def worst(self, direction: str, program: Any) -> float:
        """The largest distance."""
        found = program(*self.inputs[direction])
        due = self.logs if direction == "forward" else self.due
        found = found if direction == "forward" else (found.x, found.y[0], found.scale)
        return max(off(f, d) for f, d in zip(found, due, strict=True))


def attempt(report: dict[str, Any], name: str, call: Callable[[], Any]) -> None:
    """Its result into the report, or the error it ended with."""
    try:
        report[name] = call()
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        report[name] = {"error": f"{type(error).__name__}: {' | '.join(lines)[:500]}"}
    print(f"{time.perf_counter() - START:6.1f} s  {name}: {report[name]}", flush=True)


class Kernels:
    """Each size of tile: forward and backward by themselves."""

    def __init__(self, programs: Programs, sizes: list[int], width: int, target: Target):
        self.programs, small = programs, target.interpret
        self.check, self.inputs = Check(40 if small else 700), {}
        self.names = []
        for rows in sizes:
            x, y, scale = vectors(rows, width, jnp.bfloat16)
            given, every = Operands(x, y[None], scale, jnp.float32(0)), jnp.ones(rows, bool)
            log, share = jnp.full(rows, 12.0), jnp.full(rows, 0.5 / rows)
            right = own_only(every, every, jnp.float32)
            self.inputs[rows, "forward"] = (given, every, every)
            more = (right, (log, log), (share, share))
            self.inputs[rows, "backward"] = (given, every, every, *more)
        for direction, tiles in (("forward", FORWARD), ("backward", BACKWARD)):
            for name, blocks in tiles.items():
                blocks = replace(blocks, rows=16, columns=16, depth=16) if small else blocks
                call = partial(getattr(gpu, direction), Kind(), target=target, blocks=blocks)
                few = call if direction == "forward" else partial(call, chunk=1 << 18)
                programs.add(f"{direction} {name}", few, *self.check.inputs[direction])
                self.names.append((direction, name))
                for rows in sizes:
                    programs.add(f"{rows} {direction} {name}", call, *self.inputs[rows, direction])

    def one(self, rows: int, direction: str, name: str) -> Any:
        error = self.check.worst(direction, self.programs.ready[f"{direction} {name}"].result())
        if not error <= LIMIT:
            return {"off": error, "wrong": f"more than {LIMIT}, not timed"}
        found = self.programs.measured(f"{rows} {direction} {name}", *self.inputs[rows, direction])
        return {"off": float(f"{error:.1e}"), **found}


class Losses:
    """The loss by each backend, with and without gradients."""

    def __init__(self, programs: Programs, rows: int, width: int, target: Target):
        self.programs, self.rows, self.due = programs, rows, None
        self.inputs = vectors(rows, width, jnp.bfloat16)
        for how in HOWS:
            value = partial(loss, how, target)
            programs.add(f"{rows} {how} forward", value, *self.inputs)
            both = jax.value_and_grad(value, argnums=(0, 1, 2))
            programs.add(f"{rows} {how} both", both, *self.inputs)

    def one(self, how: str) -> Any:
        """How far it is from the first, which is naive XLA, and what it takes."""
        found = self.programs.ready[f"{self.rows} {how} both"].result()(*self.inputs)
        leaves = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(found)]
        del found
        self.due = leaves if self.due is None else self.due
        apart = [float(f"{off(a, b):.1e}") for a, b in zip(leaves, self.due, strict=True)]
        if not max(apart) <= 3 * LIMIT:
            return {"apart": apart, "wrong": "far from the first, not timed"}
        passes = ("forward", "both")
        times = {p: self.programs.measured(f"{self.rows} {how} {p}", *self.inputs) for p in passes}
        return {"apart": apart, **times}


def against_torch(rows: int, width: int, *, compiled: bool, device: str) -> dict[str, Any]:
    """The usual product of matrices and two cross-entropies."""
    import torch
    from torch.nn import functional

    def value(x: Any, y: Any, scale: Any) -> Any:
        logits = (scale * (x @ y.T)).float()
        labels = torch.arange(x.shape[0], device=x.device)
        return (
            functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)
        ) / 2

    def both(*leaves: Any) -> Any:
        for leaf in leaves:
            leaf.grad = None
        run(*leaves).backward()

    def ready(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def memory(call: Callable[[], Any]) -> float | None:
        if device != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)

    run = torch.compile(value) if compiled else value
    start = time.perf_counter()
    leaves = [
        torch.tensor(np.asarray(v, np.float32), device=device)
        for v in vectors(rows, width, jnp.float32)
    ]
    x, y = (leaf.to(torch.bfloat16).requires_grad_() for leaf in leaves[:2])
    scale = leaves[2].to(torch.bfloat16).requires_grad_()
    report: dict[str, Any] = {"loss": None}
    with torch.no_grad():
        report["loss"] = float(run(x, y, scale))
        ms = timed(lambda: run(x, y, scale), ready)
        report["forward"] = {"ms": ms, "MiB": memory(lambda: run(x, y, scale))}
    ms = timed(lambda: both(x, y, scale), ready)
    for leaf in (x, y, scale):
        leaf.grad = None
    report["both"] = {"ms": ms, "MiB": memory(lambda: both(x, y, scale))}
    report["seconds in all"] = round(time.perf_counter() - start, 1)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[8192, 32768])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--platform", default="gpu", help="gpu, or interpret for a dry run")
    parser.add_argument("--budget", type=float, default=110, help="seconds after which none begins")
    chosen = parser.parse_args()
    small = chosen.platform == "interpret"
    target = Target("gpu", interpret=True) if small else Target.of(jax.devices()[0])
    device = "cpu" if small else "cuda"
    parts = ("floor", "loss", "kernels", "torch")
    report: dict[str, Any] = {"machine": machine(), **{part: {} for part in parts}}
    for rows in chosen.rows:
        vector = jax.ShapeDtypeStruct((rows, chosen.width), jnp.bfloat16)
        given = Operands(vector, jax.ShapeDtypeStruct((1, *vector.shape), jnp.bfloat16), 0, 0)
        passes = floors.forward(given), floors.backward(given)
        floor = [one.seconds(CHIP.reached_flops, CHIP.reached_rate) for one in passes]
        ms = {"forward": 1e3 * floor[0], "both": 1e3 * sum(floor)}
        report["floor"][str(rows)] = {name: round(value, 4) for name, value in ms.items()}
    programs = Programs()
    losses = {rows: Losses(programs, rows, chosen.width, target) for rows in chosen.rows}
    kernels = Kernels(programs, chosen.rows, chosen.width, target)
    wait(programs.ready.values())
    print(f"{time.perf_counter() - START:6.1f} s  compiled", flush=True)

    def run(part: str, name: str, call: Callable[[], Any]) -> None:
        if time.perf_counter() - START < chosen.budget:
            attempt(report[part], name, call)

    for rows in chosen.rows:
        for how in HOWS:
            run("loss", f"{rows} {how}", partial(losses[rows].one, how))
    for rows in chosen.rows[::-1]:
        for direction, name in kernels.names:
            call = partial(kernels.one, rows, direction, name)
            run("kernels", f"{rows} {direction} {name}", call)
    for compiled in (False, True):
        for rows in chosen.rows[::-1]:
            call = partial(against_torch, rows, chosen.width, compiled=compiled, device=device)
            run("torch", f"{rows} {'compiled' if compiled else 'eager'}", call)
    report["seconds"] = round(time.perf_counter() - START, 1)
    print(json.dumps({"benchmark": "ops_contrastive", **report}))


if __name__ == "__main__":
    main()

"""Contrastive kernels on the GPU that is here, against XLA and torch: numbers first, then time.

    XLA_PYTHON_CLIENT_PREALLOCATE=false python tests/benchmarks/ops_contrastive.py
    ... --rows 64 --width 48 --platform interpret     # a dry run anywhere; its times mean nothing

Each candidate is checked against float64 before it is timed; what is wrong or fails is reported and
not timed. Time is the median of rounds of calls that the device runs back to back. Bytes of jax are
the compiler's peak of temporaries and results, those of torch its allocator's peak, both beside the
inputs. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

from fusekit_modules.ops import Target
from fusekit_modules.ops.contrastive import cases, floors, gpu, info_nce, xla
from fusekit_modules.ops.contrastive.positives import own_only
from fusekit_modules.ops.contrastive.scores import Kind, Operands
from tests.benchmarks.measuring import machine

FLOPS, BYTES = 798e12, 3.0e12
"""Rates measured on an H100: a bfloat16 product of 8192^3, a copy."""
SCALE = 1 / 0.07
LIMITS = {"bfloat16": 1e-2, "float32": 2e-3}
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


def timed(call: Callable[[], Any], wait: Callable[[Any], Any], *, seconds: float = 0.6) -> float:
    """Milliseconds a call."""
    wait(call())
    start = time.perf_counter()
    wait(call())
    once = time.perf_counter() - start
    times = max(1, min(50, int(seconds / 5 / max(once, 1e-6))))
    found = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(times - 1):
            call()
        wait(call())
        found.append((time.perf_counter() - start) / times)
    return 1e3 * statistics.median(found)


def measured(function: Callable[..., Any], *inputs: Any) -> dict[str, Any]:
    """Time and memory of a jitted function."""
    compiled = jax.jit(function).lower(*inputs).compile()
    memory = compiled.memory_analysis()
    ms = timed(lambda: compiled(*inputs), jax.block_until_ready)
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


def checked(blocks: gpu.Blocks, target: Target, rows: int, dtype: str, direction: str) -> float:
    """The worst distance from float64 of a direction, with rows absent and ragged sizes."""
    case = cases.Case("check", Kind(), rows + 5, rows - 3, 512 if rows > 64 else 48, 1, "some")
    given, r, c = cases.arrays(case, dtype)
    rng = np.random.default_rng(1)
    grads = tuple(jnp.asarray(rng.random(v.shape[0]) * np.asarray(v), jnp.float32) for v in (r, c))
    logs, due = exact(given, r, c, grads)
    if direction == "forward":
        found = jax.jit(partial(gpu.forward, Kind(), target=target, blocks=blocks))(given, r, c)
        return max(off(f, d) for f, d in zip(found, logs, strict=True))
    pair = tuple(jnp.asarray(log, jnp.float32) for log in logs)
    call = partial(gpu.backward, Kind(), target=target, blocks=blocks, chunk=1 << 18)
    found = jax.jit(call)(given, r, c, own_only(r, c, jnp.float32), pair, grads)
    return max(off(f, d) for f, d in zip((found.x, found.y[0], found.scale), due, strict=True))


def attempt(report: dict[str, Any], name: str, call: Callable[[], Any]) -> Any:
    """Its result into the report, or the error it ended with."""
    try:
        report[name] = call()
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        report[name] = {"error": f"{type(error).__name__}: {' | '.join(lines)[:500]}"}
    print(f"{time.perf_counter() - START:6.1f} s  {name}: {report[name]}", flush=True)
    return report[name]


def kernels(rows: int, width: int, target: Target, small: bool) -> dict[str, Any]:
    """Each size of tile: forward and backward by themselves."""
    report: dict[str, Any] = {}
    x, y, scale = vectors(rows, width, jnp.bfloat16)
    given, every = Operands(x, y[None], scale, jnp.float32(0)), jnp.ones(rows, bool)
    pair = jax.jit(partial(xla.forward, Kind()))(given, every, every)
    grads, own = (jnp.full(rows, 0.5 / rows),) * 2, own_only(every, every, jnp.float32)
    for direction, tiles in (("forward", FORWARD), ("backward", BACKWARD)):
        for name, blocks in tiles.items():
            blocks = replace(blocks, rows=16, columns=16, depth=16) if small else blocks

            def one(blocks: gpu.Blocks = blocks, direction: str = direction) -> Any:
                size, limit = (40 if small else 700), LIMITS["bfloat16"]
                error = checked(blocks, target, size, "bfloat16", direction)
                if not error <= limit:
                    return {"off": error, "wrong": f"more than {limit}, not timed"}
                call = partial(getattr(gpu, direction), Kind(), target=target, blocks=blocks)
                more = () if direction == "forward" else (own, pair, grads)
                return {"off": error, **measured(call, given, every, every, *more)}

            attempt(report, f"{rows} {direction} {name}", one)
    return report


def against_xla(rows: int, width: int, target: Target) -> dict[str, Any]:
    """The loss by each backend, with and without gradients, and how far these are apart."""
    report: dict[str, Any] = {}
    inputs = vectors(rows, width, jnp.bfloat16)
    due: dict[str, Any] = {}
    for how in ("naive", "xla", "gpu"):
        value = partial(loss, how, target)
        both = jax.value_and_grad(value, argnums=(0, 1, 2))

        def one(how: str = how, value: Any = value, both: Any = both) -> Any:
            found = jax.jit(both)(*inputs)
            leaves = [np.asarray(leaf, np.float32) for leaf in jax.tree.leaves(found)]
            apart = [
                off(a, b) for a, b in zip(leaves, due.setdefault("naive", leaves), strict=True)
            ]
            if not max(apart) <= 3e-2:
                return {"apart": apart, "wrong": "from naive XLA, not timed"}
            del found
            return {
                "apart": apart,
                "forward": measured(value, *inputs),
                "both": measured(both, *inputs),
            }

        attempt(report, f"{rows} {how}", one)
    return report


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

    def wait(_: Any) -> None:
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
        ms = timed(lambda: run(x, y, scale), wait)
        report["forward"] = {"ms": ms, "MiB": memory(lambda: run(x, y, scale))}
    ms = timed(lambda: both(x, y, scale), wait)
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
    report: dict[str, Any] = {
        "machine": machine(),
        "floor": {},
        "kernels": {},
        "xla": {},
        "torch": {},
    }
    for rows in chosen.rows:
        vector = jax.ShapeDtypeStruct((rows, chosen.width), jnp.bfloat16)
        given = Operands(vector, jax.ShapeDtypeStruct((1, *vector.shape), jnp.bfloat16), 0, 0)
        parts = floors.forward(given), floors.backward(given)
        ms = [1e3 * part.seconds(FLOPS, BYTES) for part in parts]
        report["floor"][str(rows)] = {"forward ms": ms[0], "both ms": sum(ms)}

    def late() -> bool:
        return time.perf_counter() - START > chosen.budget

    for rows in chosen.rows:
        report["xla"] |= {} if late() else against_xla(rows, chosen.width, target)
    for rows in chosen.rows[::-1]:
        report["kernels"] |= {} if late() else kernels(rows, chosen.width, target, small)
    for compiled in (False, True):
        for rows in chosen.rows:
            name = f"{rows} {'compiled' if compiled else 'eager'}"
            if not late():
                call = partial(against_torch, rows, chosen.width, compiled=compiled, device=device)
                attempt(report["torch"], name, call)
    report["seconds"] = round(time.perf_counter() - START, 1)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

"""The selective scan compiled for a TPU that is not there: estimates of XLA's forms and kernels.

    python -m tests.benchmarks.ops_selective_scan_tpu [--case 0] [--topology v5e:2x2] [--hows ...]

Nothing runs. XLA's own instructions have the compiler's estimate of cycles, times the turns of
their loops; a kernel's cycles are its bundles, times the turns of theirs, times its programs, which
leaves out what waits for memory. `unroll N` is the portable form with N tokens a turn; `associative
N` is `jax.lax.associative_scan` within chunks of N, made again for the backward pass. The floor is
of memory. The last line is JSON.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
from tests.support.scan_bundles import FLAGS, kernels, ordered, shapes

os.environ["LIBTPU_INIT_ARGS"] = FLAGS

import argparse
import json
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import SingleDeviceSharding

from fusekit.plan.compilers import devices
from fusekit.plan.hlo import costs
from fusekit_modules.ops.selective_scan import cases, floors, tpu, xla
from fusekit_modules.ops.selective_scan.form import CHUNK, Given
from fusekit_tpu.topology import Topology


def associative(length: int, given: Given) -> tuple[jax.Array, jax.Array]:
    """y and the last state, of whole chunks without marks."""
    batch, time, channels = given.x.shape

    def cut(tokens: jax.Array) -> jax.Array:
        parts = tokens.astype(jnp.float32).reshape(batch, time // length, length, -1)
        return jnp.moveaxis(parts, 1, 0)

    def after(first: Any, second: Any) -> Any:
        return first[0] * second[0], second[0] * first[1] + second[1]

    @jax.checkpoint
    def chunk(state: jax.Array, now: Any) -> tuple[jax.Array, jax.Array]:
        x, delta, into, out = now
        decay = jnp.exp(delta[:, :, None] * given.a)
        more = (delta * x)[:, :, None] * into[..., None]
        decays, added = lax.associative_scan(after, (decay, more), axis=1)
        states = decays * state[:, None] + added
        return states[:, -1], jnp.sum(states * out[..., None], axis=2).astype(given.x.dtype)

    tokens = tuple(cut(v) for v in (given.x, given.delta, given.into, given.out))
    state, y = lax.scan(chunk, given.state, tokens)
    return jnp.moveaxis(y, 0, 1).reshape(batch, time, channels), state


def call(how: str, *, both: bool) -> Any:
    """A function of what is given and the results' gradients: results, or gradients too."""
    name, _, number = how.partition(" ")
    if name == "associative":

        def by_pairs(given: Given, grads: Any) -> Any:
            if not both:
                return associative(int(number), given)
            found, back = jax.vjp(lambda given: associative(int(number), given), given)
            return found, back(grads)

        return by_pairs
    module: Any = tpu if name == "tpu" else xla
    options = {"unroll": int(number)} if name == "unroll" else {}

    def by_module(given: Given, grads: Any) -> Any:
        found = module.forward(given, keep=both, **options)
        if not both:
            return found.y, found.state
        return found.y, found.state, module.backward(given, found.kept, grads, **options)

    return by_module


def priced(how: str, given: Given, grads: Any, topology: Topology, *, both: bool) -> dict[str, Any]:
    """Estimated milliseconds and temporaries."""
    function, clock = call(how, both=both), topology.chip.clock or 1.0
    outs = ordered(function, given, grads)
    program: Any = jax.jit(function, out_shardings=outs).lower(given, grads).compile()
    found: dict[str, Any] = {"kernels": {}}
    cycles = costs(program.as_text(), {"data": 1}).cycles
    for name, bundles in kernels(CHUNK // tpu.STEP).items():
        count = bundles * tpu.programs(given)
        found["kernels"][name] = {"bundles": bundles, "ms": round(1e3 * count / clock, 2)}
        cycles += count
    found["ms"] = round(1e3 * cycles / clock, 2)
    found["temp_mib"] = round(program.memory_analysis().temp_size_in_bytes / 2**20, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", type=int, default=0, help="of cases.TIMED")
    parser.add_argument("--topology", default="v5e:2x2")
    hows = ["tpu", "unroll 1", "unroll 8", "associative 16"]
    parser.add_argument("--hows", nargs="*", default=hows)
    chosen = parser.parse_args()
    topology = Topology.parse(chosen.topology)
    case = cases.TIMED[chosen.case]
    where = SingleDeviceSharding(devices(topology)[0])
    given, grads = shapes(case, where, jnp.bfloat16)
    report: dict[str, Any] = {"benchmark": "ops_selective_scan_tpu", "topology": chosen.topology}
    report["case"] = case.name
    moved = {"forward": floors.forward(given).bytes}
    moved["both"] = moved["forward"] + floors.backward(given).bytes
    for name, both in (("forward", False), ("both", True)):
        least = 1e3 * moved[name] / topology.chip.hbm_rate
        report[f"{name} floor_ms"] = round(least, 3)
        for how in chosen.hows:
            found = report[f"{name} {how}"] = priced(how, given, grads, topology, both=both)
            print(f"{name} {how}: {found}", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

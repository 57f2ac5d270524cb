"""State-space operations compiled for a TPU that is not there: what the compiler estimates.

    python -m tests.benchmarks.ops_state_space_tpu [--chunks 64 128 256] [--topology v5e:2x2]

Nothing runs. Milliseconds are the compiler's estimates of cycles, as often as each instruction
runs, at the clock that fits the public peaks. `least` is the least that the memory of the chip
allows. The last line is JSON.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.plan.compilers import devices
from fusekit.plan.hlo import costs
from fusekit_modules.ops.ssd import cases, floors, ssd
from fusekit_tpu.topology import Topology
from tests.support.compiled import mesh_of


def priced(function: Callable[..., Any], shapes: Any, topology: Topology) -> dict[str, Any]:
    """Estimated milliseconds and temporaries of a function of arrays with these shapes."""
    mesh = mesh_of(devices(topology), data=1)
    where = NamedSharding(mesh, P())
    given = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), shapes)
    compiled = jax.jit(function).lower(*given).compile()
    known = costs(compiled.as_text(), {"data": 1})
    return {
        "ms": round(1e3 * known.cycles / (topology.chip.clock or 1.0), 2),
        "temp_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 1),
    }


def scanned(case: cases.Case, chunk: int, *, both: bool, backend: str) -> tuple[Any, Any]:
    """A call of `ssd` and the shapes that it is given. Tokens come and go as `[b, t, h p]`, which
    is how a model's products leave them."""
    given, marks = jax.eval_shape(lambda: cases.arrays(case, jnp.bfloat16))
    x = given[0]
    flat = jax.ShapeDtypeStruct((*x.shape[:2], case.heads * case.size), x.dtype)

    def call(x: Any, decay: Any, into: Any, out: Any, marks: Any) -> Any:
        heads = x.reshape(*x.shape[:2], case.heads, case.size)
        y, _ = ssd(heads, decay, into, out, **marks, chunk=chunk, backend=backend)
        return y.reshape(x.shape)

    def passes(x: Any, decay: Any, into: Any, out: Any, marks: Any, grad: Any) -> Any:
        y, back = jax.vjp(partial(call, marks=marks), x, decay, into, out)
        return y, back(grad)

    shapes = (flat, *given[1:], marks)
    return (passes, (*shapes, flat)) if both else (call, shapes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--chunks", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--cases", nargs="*", default=[case.name for case in cases.TIMED])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--sequential", action="store_true", help="the reference, too")
    chosen = parser.parse_args()
    topology = Topology.parse(chosen.topology)
    report: dict[str, Any] = {"benchmark": "ops_state_space_tpu", "topology": chosen.topology}
    for case in cases.TIMED:
        if case.name not in chosen.cases:
            continue
        given = jax.eval_shape(lambda c=case: cases.arrays(c, jnp.bfloat16)[0])
        for both in (False, True):
            name = f"{case.name}, {'both' if both else 'forward'}"
            floor = floors.forward(*given)
            least = floor.bytes + (floors.backward(*given).bytes if both else 0)
            report[f"{name}, least_ms"] = round(1e3 * least / topology.chip.hbm_rate, 2)
            ways = [("xla", chunk) for chunk in chosen.chunks]
            ways += [("reference", 1)] if chosen.sequential else []
            for backend, chunk in ways:
                found = priced(*scanned(case, chunk, both=both, backend=backend), topology)
                which = f"ssd in chunks of {chunk}" if backend == "xla" else "ssd step by step"
                report[f"{name}, {which}"] = found
                print(f"{name}, {which}: {found}", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

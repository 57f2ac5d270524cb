"""The low-rank product compiled for a TPU that is not there: what the compiler estimates.

    python -m tests.benchmarks.ops_low_rank_tpu [--cases 0 1] [--topology v5e:2x2]

Nothing runs. See `estimates`. `at once` holds the factors of all ranks in bfloat16; `xla` is the
scan over ranks; `tpu` has the kernel forward and the scan backward. The last line is JSON.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from tests.benchmarks.estimates import priced

# isort: split
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from fusekit.plan.compilers import devices
from fusekit_modules.ops import Target
from fusekit_modules.ops.low_rank import cases, floors, low_rank, tpu
from fusekit_modules.ops.low_rank.form import Given
from fusekit_tpu.topology import Topology

HOWS = ("at once", "xla", "tpu")


def fused(how: str, target: Target, given: Given) -> Any:
    if how != "at once":
        return low_rank(*given, target=target, backend=how, backward="xla")
    product: Any = 1
    for vector, (offsets, weights) in zip(given.vectors, given.factors, strict=True):
        product = product * (offsets[:, None] + jnp.einsum("bd,rdo->rbo", vector, weights))
    return jnp.einsum("r,rbo->bo", given.mix, product) + given.bias


def both(how: str, target: Target, given: Given, grad: Any) -> Any:
    """The result and the gradient by everything."""
    found, back = jax.vjp(partial(fused, how, target), given)
    return found, back(grad)


def shapes(case: cases.Case, device: Any) -> tuple[Given, Any]:
    where = SingleDeviceSharding(device)
    given = jax.eval_shape(lambda: cases.arrays(case, jnp.bfloat16))
    grad = jax.ShapeDtypeStruct((case.rows, case.out), jnp.bfloat16)
    placed = partial(jax.tree.map, lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where))
    return placed(given), placed(grad)


def of_case(case: cases.Case, topology: Topology, hows: Sequence[str]) -> dict[str, Any]:
    device, chip = devices(topology)[0], topology.chip
    given, grad = shapes(case, device)
    target, steps = Target.of(device), tpu.programs(given)
    found: dict[str, Any] = {}
    for direction in ("forward", "both"):
        floor = floors.forward(given).seconds(chip.flops, chip.hbm_rate)
        if direction == "both":
            floor += floors.backward(given).seconds(chip.flops, chip.hbm_rate)
        found[f"{direction} floor_ms"] = round(1e3 * floor, 2)
        for how in hows:
            call = partial(fused if direction == "forward" else both, how, target)
            inputs = (given,) if direction == "forward" else (given, grad)
            found[f"{direction} {how}"] = priced(call, inputs, chip, lambda _: steps)
            print(f"{case.name}, {direction} {how}: {found[f'{direction} {how}']}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, nargs="*", default=list(range(len(cases.TIMED))))
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--hows", nargs="*", default=list(HOWS))
    chosen = parser.parse_args()
    topology = Topology.parse(chosen.topology)
    report: dict[str, Any] = {"benchmark": "ops_low_rank_tpu", "topology": chosen.topology}
    for number in chosen.cases:
        case = cases.TIMED[number]
        report[case.name] = of_case(case, topology, chosen.hows)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

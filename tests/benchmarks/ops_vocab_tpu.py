"""Cross-entropy over a large vocabulary compiled for a TPU that is not there, with and without
logits; and its peak memory on this CPU.

    python -m tests.benchmarks.ops_vocab_tpu [--cases 0 1] [--topology v5e:2x2] [--hows logits xla]

Nothing runs on a TPU: milliseconds are the compiler's estimate of cycles at the clock that fits the
public peaks, a loop's body counted as often as it runs. On the CPU each form runs in a
process of its own. The last line is JSON.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.layout import Layout
from fusekit.plan.compilers import devices
from fusekit.plan.hlo import costs
from fusekit_modules.ops.linear_cross_entropy import cases, floors, linear_cross_entropy
from fusekit_modules.ops.linear_cross_entropy.given import Linear
from fusekit_tpu.topology import Topology

HOWS = ("logits", "xla")
HERE = cases.Case("this CPU", 2048, 128, 32768)


def loss(how: str, given: Linear, target: Any, counts: Any) -> Any:
    """The mean over all rows, of float32 parameters that are multiplied in the features' dtype;
    `logits` as the head and the loss make it of them."""
    if how != "logits":
        each = linear_cross_entropy(*given, target, counts, backend=how)
        return jnp.sum(each) / jnp.maximum(jnp.sum(counts), 1)
    logits = given.features @ given.kernel.astype(given.features.dtype)
    if given.bias is not None:
        logits = logits + given.bias.astype(logits.dtype)
    logits = jnp.where(counts[:, None], logits.astype(jnp.float32), 0)
    surprise = -jax.nn.log_softmax(logits, axis=-1)
    own = jnp.take_along_axis(surprise, target[:, None], axis=-1)[:, 0]
    return jnp.sum(jnp.where(counts, own, 0)) / jnp.maximum(jnp.sum(counts), 1)


def shapes(case: cases.Case, dtype: Any, where: Any = None) -> tuple[Any, ...]:
    def one(shape: tuple[int, ...], kind: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, kind, sharding=where)

    rows, width, words = case.rows, case.width, case.vocabulary
    bias = one((words,), jnp.float32) if case.bias else None
    given = Linear(one((rows, width), dtype), one((width, words), jnp.float32), bias)
    return given, one((rows,), jnp.int32), one((rows,), jnp.bool_)


def priced(how: str, both: bool, case: cases.Case, topology: Topology) -> dict[str, Any]:
    """Estimated milliseconds, and mebibytes of temporaries."""
    layout = Layout.of(devices=devices(topology)[:1])
    where = NamedSharding(layout.mesh, P())

    def function(*given: Any) -> Any:
        return loss(how, *given)

    chosen = jax.value_and_grad(function) if both else function
    program = jax.jit(chosen).lower(*shapes(case, jnp.bfloat16, where)).compile()
    memory = program.memory_analysis()
    known = costs(program.as_text(), {"data": 1})
    assert not known.unknown_loops, known.unknown_loops
    return {
        "ms": round(1e3 * known.cycles / (topology.chip.clock or 1.0), 2),
        "temp_mib": round(memory.temp_size_in_bytes / 2**20, 1),
        "peak_mib": round(memory.peak_memory_in_bytes / 2**20, 1),
    }


def measured(how: str, case: cases.Case) -> dict[str, float]:
    """Mebibytes that this process took at most, before and after the loss and its gradients ran."""

    def most() -> float:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)

    function = jax.jit(jax.value_and_grad(lambda *given: loss(how, *given)))
    inputs = cases.arrays(case)
    program = function.lower(*inputs).compile()
    before = most()
    value, grads = jax.block_until_ready(program(*inputs))
    temporaries = program.memory_analysis().temp_size_in_bytes
    return {
        "before_mib": before,
        "peak_mib": most(),
        "temp_mib": round(temporaries / 2**20, 1),
        "loss": float(value),
        "norm": float(jnp.linalg.norm(grads.kernel)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, nargs="*", default=[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--hows", nargs="*", default=list(HOWS))
    parser.add_argument("--cpu", choices=HOWS, help="measure this form alone, here")
    parser.add_argument("--no-cpu", action="store_true", help="compile only")
    chosen = parser.parse_args()
    if chosen.cpu:
        print(json.dumps(measured(chosen.cpu, HERE)))
        return
    topology = Topology.parse(chosen.topology)
    report: dict[str, Any] = {"benchmark": "ops_vocab_tpu", "topology": chosen.topology}
    for case in (cases.TIMED[number] for number in chosen.cases):
        name = f"{case.rows}x{case.width}x{case.vocabulary}"
        rates = topology.chip.flops, topology.chip.hbm_rate
        given = shapes(case, jnp.bfloat16)[0]
        for both in (False, True):
            which = f"{name} {'both' if both else 'forward'}"
            floor = floors.forward(given).seconds(*rates)
            floor += floors.backward(given).seconds(*rates) if both else 0
            report[f"{which} floor_ms"] = round(1e3 * floor, 2)
            for how in chosen.hows:
                report[f"{which} {how}"] = found = priced(how, both, case, topology)
                print(f"{which} {how}: {found}", flush=True)
    if not chosen.no_cpu:
        for how in HOWS:
            command = [sys.executable, __file__, "--cpu", how]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            report[f"cpu {how}"] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(report))


if __name__ == "__main__":
    main()

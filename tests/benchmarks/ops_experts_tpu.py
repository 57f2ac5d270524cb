"""Experts' feed-forward layers compiled for a TPU that is not there: the compiler's estimates.

    python -m tests.benchmarks.ops_experts_tpu [--hows batched tpu xla] [--topology v5e:2x2]

16384 tokens, each to 2 of 8 experts, 768 to 3072 to 768, bfloat16. `slices` are experts by
modality: 8 spans of 4096 rows, as much work, with nothing sorted (minutes of compilation);
`batched`, the same as one product. Nothing runs. XLA's own
instructions have the compiler's estimate of cycles; a kernel's cycles are the scheduled bundles of
a step times its steps, which leaves out what waits for memory. What does not compile says why. The
last line is JSON.
"""

import argparse
import json
import re
from functools import partial
from typing import Any

from tests.benchmarks.estimates import bundles

# isort: split
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from fusekit.plan.compilers import devices
from fusekit.plan.hlo import costs
from fusekit_modules.fusion._expert_parallel import stay
from fusekit_modules.fusion._routing import ragged
from fusekit_modules.ops import Target
from fusekit_modules.ops.grouped_product import floors, grouped_product, tpu
from fusekit_tpu.topology import Topology

BATCH, TIME, TOP, EXPERTS, WIDTH, HIDDEN = 64, 256, 2, 8, 768, 3072


def layer(how: str, target: Target, x: Any, expert: Any, weight: Any, up: Any, down: Any) -> Any:
    """sum_k weight_k MLP_k(x); of `slices` and `batched`, each span's expert."""
    if how == "batched":
        sizes = (x.shape[0] * TIME // EXPERTS,) * EXPERTS
        hidden = grouped_product(x.reshape(-1, WIDTH), sizes, up)
        hidden = jax.nn.gelu(hidden, approximate=False)
        return grouped_product(hidden, sizes, down).reshape(x.shape)
    if how != "slices":
        each = partial(ragged, how={"target": target, "backend": how})
        return stay(x, expert, weight, up, down, each=each, layout=None)
    parts = []
    for n in range(EXPERTS):
        part = jax.lax.slice_in_dim(x, n * TIME // EXPERTS, (n + 1) * TIME // EXPERTS, axis=1)
        parts.append(jax.nn.gelu(part @ up[n], approximate=False) @ down[n])
    return jnp.concatenate(parts, axis=1)


def cycles(name: str, count: int, text: str) -> int:
    """Bundles times steps. Products of several parts hold the last one's code and the others'
    beside it, of which a step runs one."""
    shape = re.search(rf"%{re.escape(name)} = \w+\[([\d,]+)\]", text)
    assert shape is not None, name
    sizes = [int(size) for size in shape[1].split(",")]
    rows = BATCH * TIME * TOP
    tiles = rows // tpu.ROWS + EXPERTS - 1
    if len(sizes) == 3:  # gradients by weights
        return (
            count * tiles * -(-sizes[1] // tpu._cut(sizes[1])) * -(-sizes[2] // tpu._cut(sizes[2]))
        )
    across = WIDTH + HIDDEN - sizes[1]
    parts = -(-across // tpu._cut(across))
    return count * tiles * parts * -(-sizes[1] // tpu._cut(sizes[1])) // min(parts, 2)


def priced(how: str, both: bool, topology: Topology) -> dict[str, Any]:
    """Estimated milliseconds and temporaries of a layer, with or without gradients."""
    chip = devices(topology)[0]
    where, target = SingleDeviceSharding(chip), Target.of(chip)

    def shape(*sizes: int, dtype: Any = jnp.bfloat16) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=where)

    still = how in ("slices", "batched")
    spread = TOP if still else 1  # as many rows in all
    given = (
        shape(BATCH * spread, TIME, WIDTH),
        shape(BATCH, TIME, TOP, dtype=jnp.int32),
        shape(BATCH, TIME, TOP),
        shape(EXPERTS, WIDTH, HIDDEN),
        shape(EXPERTS, HIDDEN, WIDTH),
    )
    function = partial(layer, how, target)
    if both:

        def total(*given: Any) -> Any:
            return jnp.sum(jnp.square(layer(how, target, *given).astype(jnp.float32)))

        wanted = (0, 3, 4) if still else (0, 2, 3, 4)
        function = jax.grad(total, argnums=wanted)
    try:
        program = jax.jit(function).lower(*given).compile()
    except Exception as error:  # of whatever kind the compiler raises
        return {"fails": " ".join(str(error).split())[:300]}
    text, memory = program.as_text(), program.memory_analysis()
    clock = topology.chip.clock or 1.0
    known = costs(text, {"data": 1})
    found: dict[str, Any] = {"xla_ms": round(1e3 * known.cycles / clock, 2), "kernels": {}}
    for name, count in bundles():
        ms = round(1e3 * cycles(name, count, text) / clock, 2)
        found["kernels"][name] = {"bundles": count, "ms": ms}
    found["ms"] = round(found["xla_ms"] + sum(k["ms"] for k in found["kernels"].values()), 2)
    found["temp_mib"] = round(memory.temp_size_in_bytes / 2**20, 1)
    found["sorts"] = len(re.findall(r" sort\(", text))
    found["gathers"] = len(re.findall(r" gather\(", text))
    found["scatters"] = len(re.findall(r" scatter\(", text))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--hows", nargs="*", default=["batched", "tpu", "xla"])
    parser.add_argument("--passes", nargs="*", default=["forward", "both"])
    chosen = parser.parse_args()
    topology = Topology.parse(chosen.topology)
    report: dict[str, Any] = {"benchmark": "ops_experts_tpu", "topology": chosen.topology}
    rows = jax.ShapeDtypeStruct((BATCH * TIME * TOP, WIDTH), jnp.bfloat16)
    weights = jax.ShapeDtypeStruct((EXPERTS, WIDTH, HIDDEN), jnp.bfloat16)
    rates = topology.chip.flops, topology.chip.hbm_rate
    for which in chosen.passes:
        least = 2 * floors.forward(rows, weights).seconds(*rates)
        least += 2 * floors.backward(rows, weights).seconds(*rates) if which == "both" else 0
        report[f"{which} floor_ms"] = round(1e3 * least, 2)
        for how in chosen.hows:
            report[f"{which} {how}"] = found = priced(how, which == "both", topology)
            print(f"{which} {how}: {found}", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

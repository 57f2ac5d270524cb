"""InfoNCE compiled for a TPU that is not there: what the compiler estimates, ours against XLA's.

    python tests/benchmarks/ops_contrastive_tpu.py [--rows 8192 32768] [--topology v5e:2x2]

Nothing runs. XLA's own instructions have the compiler's estimate of cycles; a kernel's cycles are
its scheduled bundles times its steps, which leaves out what waits for memory. Milliseconds are at
the clock that fits the public peaks. The last line is JSON.
"""

import json
import os
import re
import tempfile
from pathlib import Path

FOLDER = Path(tempfile.mkdtemp(prefix="llo-"))
os.environ["LIBTPU_INIT_ARGS"] = (
    f"--xla_jf_dump_to={FOLDER} --xla_jf_dump_llo_text=true"
    " --xla_jf_dump_llo_pass_label_regex=.*static-bundle-profile.*"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import argparse  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from fusekit.plan.compilers import devices  # noqa: E402
from fusekit.plan.hlo import costs  # noqa: E402
from fusekit_modules.ops import Target  # noqa: E402
from fusekit_modules.ops.contrastive import info_nce, tpu  # noqa: E402
from fusekit_tpu.topology import Topology  # noqa: E402
from tests.support.compiled import mesh_of  # noqa: E402

CLOCK = {"v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}
PEAK = {"v5e": 197e12, "v5p": 459e12, "v6e": 918e12}


def loss(how: str, target: Target, x: Any, y: Any, scale: Any) -> Any:
    """The mean over both sides."""
    every = jnp.ones(x.shape[0], bool)
    if how == "naive":
        logits = scale * jax.lax.dot(x, y.T, preferred_element_type=jnp.float32)
        own = jnp.diagonal(logits)
        return sum(jnp.mean(jax.nn.logsumexp(logits, axis=n) - own) for n in (0, 1)) / 2
    sides = info_nce(x, y, scale, every, every, target=target, forward=how, backward=how)
    return (jnp.mean(sides[0]) + jnp.mean(sides[1])) / 2


def bundles() -> list[tuple[str, int]]:
    """By name, the bundles of the kernels of the program compiled last; the dump is removed."""
    found = []
    for path in FOLDER.glob("*static-bundle-profile*"):
        for section in path.read_text().split("\n\n"):
            name = re.search(r"custom-call\(", section.split("\n")[0])
            count = re.search(r"- VMEM_SPILL_COUNT: \(\d+/(\d+)\)", section)
            if name and count:
                found.append((section.split(" = ")[0].removeprefix("HLO: %"), int(count[1])))
    for path in FOLDER.glob("*"):
        path.unlink()
    return found


def steps(rows: int, direction: str) -> int:
    """How often a kernel's body runs, backward over all launches."""
    if direction == "forward":
        return -(-rows // tpu.FORWARD.rows) * -(-rows // tpu.FORWARD.columns)
    return -(-rows // tpu.BACKWARD.block) * -(-rows // tpu.BACKWARD.columns)


def priced(how: str, both: bool, rows: int, width: int, topology: Topology) -> dict[str, Any]:
    """Estimated milliseconds and temporaries of the loss, with or without gradients."""
    mesh = mesh_of(devices(topology), data=1)
    where = NamedSharding(mesh, P())
    vector = jax.ShapeDtypeStruct((rows, width), jnp.bfloat16, sharding=where)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=where)
    function = partial(loss, how, Target.of(mesh))
    function = jax.value_and_grad(function, argnums=(0, 1, 2)) if both else function
    compiled = jax.jit(function).lower(vector, vector, scale).compile()
    memory, clock = compiled.memory_analysis(), CLOCK[topology.chip.name]
    known = costs(compiled.as_text(), {"data": 1})
    found: dict[str, Any] = {"xla_ms": round(1e3 * known.cycles / clock, 2), "kernels": {}}
    for name, count in bundles():
        direction = "backward" if "gradients" in name else "forward"
        cycles = count * steps(rows, direction)
        found["kernels"][name] = {"bundles": count, "ms": round(1e3 * cycles / clock, 2)}
    found["ms"] = round(found["xla_ms"] + sum(k["ms"] for k in found["kernels"].values()), 2)
    found["temp_mib"] = round(memory.temp_size_in_bytes / 2**20, 1)
    found["peak_mib"] = round(memory.peak_memory_in_bytes / 2**20, 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[8192, 32768])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--hows", nargs="*", default=["naive", "xla", "tpu"])
    chosen = parser.parse_args()
    topology = Topology.parse(chosen.topology)
    report: dict[str, Any] = {"benchmark": "ops_contrastive_tpu", "topology": chosen.topology}
    for rows in chosen.rows:
        product = 1e3 * 2 * rows * rows * chosen.width / PEAK[topology.chip.name]
        for both in (False, True):
            name = f"{rows} {'both' if both else 'forward'}"
            report[f"{name} floor_ms"] = round(product * (4 if both else 1), 2)
            for how in chosen.hows:
                found = priced(how, both, rows, chosen.width, topology)
                report[f"{name} {how}"] = found
                print(f"{name} {how}: {found}", flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

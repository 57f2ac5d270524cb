"""Compiles the selective scan for one TPU that is not here, and says what the compiler made of it.

    python -m tests.support.scan_bundles GENERATION CASE

The last line is JSON: the kernels of both passes, bytes of temporaries of the program, and of each
kernel its programs and the bundles that one program runs. A bundle within a loop counts as often as
the loop turns (`looped`); what waits for memory is not counted. Not of v6e, whose compiler does not
write its bundles. A process of its own, as libtpu reads its flags once.
"""

import json
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from fusekit.plan.compilers import ENVIRONMENT, devices
from fusekit_tpu.topology import Topology

SHAPES = {"v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2"}
FOLDER = Path(tempfile.mkdtemp(prefix="llo-"))
FLAGS = (
    f"--xla_jf_dump_to={FOLDER} --xla_jf_dump_llo_text=true "
    "--xla_jf_dump_llo_pass_label_regex=.*final_bundles.*"
)
_LINE = re.compile(r"^\s*(?:0x[0-9a-f]+|0)\s+[A-Z]*\s*:\s*(>*)\s*\{", re.MULTILINE)


def looped(text: str, turns: int) -> int:
    """Bundles that one program of a kernel runs, from its listing, in which `>` stands once for a
    bundle in the loop over programs and twice for one in a loop within, which turns so often."""
    depths = Counter(len(found[1]) for found in _LINE.finditer(text))
    if set(depths) != {0, 1, 2}:
        raise ValueError(f"loops are nested {max(depths)} deep, not 2")
    return depths[1] + turns * depths[2]


def kernels(turns: int) -> dict[str, int]:
    """By kernel, the bundles of one program, of what was compiled last; the dump is removed."""
    found = {}
    for path in FOLDER.glob("*selective_scan_*-final_bundles.txt"):
        name = re.search(r"selective_scan_[a-z]+", path.name)
        if name and "schedule-analysis" not in path.name:
            found[name[0]] = looped(path.read_text(), turns)
    for path in FOLDER.glob("*"):
        path.unlink()
    return found


def shapes(case: Any, where: Any, dtype: Any) -> tuple[Any, Any]:
    """Of what a scan is given, as the backends take it, and of the gradients of its results; in the
    order that a model's products leave tokens in: alone, XLA may choose another."""
    import jax
    import jax.numpy as jnp
    from jax.experimental.layout import Format, Layout

    from fusekit_modules.ops.selective_scan.form import Given

    (b, t, d, n), wide = (case.batch, case.time, case.channels, case.size), jnp.float32

    def of(shape: tuple[int, ...], dtype: Any = dtype) -> Any:
        place = Format(Layout(tuple(range(len(shape)))), where)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=place)

    x, size, state = of((b, t, d)), of((b, t, n)), of((b, n, d), wide)
    marks: Any = None if case.missing == "none" else of((b, t), jnp.int32)
    return Given(x, x, of((n, d), wide), size, size, marks, state), (x, state)


def ordered(call: Any, *given: Any) -> Any:
    """Where results go, in the order of what is given."""
    import jax
    from jax.experimental.layout import Format, Layout

    where = given[0].x.sharding
    return jax.tree.map(
        lambda a: Format(Layout(tuple(range(a.ndim))), where), jax.eval_shape(call, *given)
    )


def main(generation: str, number: int) -> dict[str, Any]:
    os.environ |= {**ENVIRONMENT, "LIBTPU_INIT_ARGS": FLAGS}
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from fusekit_modules.ops.selective_scan import cases, tpu
    from fusekit_modules.ops.selective_scan.form import CHUNK

    where = SingleDeviceSharding(devices(Topology.parse(f"{generation}:{SHAPES[generation]}"))[0])
    given, grads = shapes(cases.TIMED[number], where, jnp.bfloat16)

    def both(given: Any, grads: Any) -> Any:
        found = tpu.forward(given)
        return found.y, found.state, tpu.backward(given, found.kept, grads)

    program: Any = (
        jax.jit(both, out_shardings=ordered(both, given, grads)).lower(given, grads).compile()
    )
    return {
        "kernels": sorted(set(re.findall(r"%(selective_scan_[a-z]+)", program.as_text()))),
        "temporaries": program.memory_analysis().temp_size_in_bytes,
        "programs": tpu.programs(given),
        "bundles": kernels(CHUNK // tpu.STEP),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))

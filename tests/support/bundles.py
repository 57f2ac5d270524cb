"""Compiles stream attention for one TPU that is not here, and says what the compiler made of it.

    python -m tests.support.bundles GENERATION CASE PASS

PASS is `forward` or `both`. The last line is JSON: the kernels that the program calls, bytes of
temporaries, and of each kernel how many bundles one program of it is (not of v6e, whose compiler
does not say); times programs, over the clock, that is about its time. A process of its own, as
libtpu reads its flags once.
"""

import json
import os
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusekit.plan.compilers import ENVIRONMENT, devices
from fusekit_tpu.topology import Topology

SHAPES = {"v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2"}


def main(generation: str, number: int, which: str) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp())
    os.environ |= ENVIRONMENT
    os.environ["LIBTPU_INIT_ARGS"] = (
        f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
        "--xla_jf_dump_llo_pass_label_regex=.*static-bundle-profile.*"
    )
    import jax
    import jax.numpy as jnp
    from jax.experimental.layout import Format, Layout
    from jax.sharding import SingleDeviceSharding

    from fusekit_modules.ops.stream_attention import cases, tpu
    from fusekit_modules.ops.stream_attention.form import form_of

    where = SingleDeviceSharding(devices(Topology.parse(f"{generation}:{SHAPES[generation]}"))[0])

    def placed(array: Any) -> Any:
        """In the order that a model's products leave tokens in; alone, XLA may choose another."""
        if array.ndim != 3:
            return where
        return Format(Layout((0, 1, 2)), where)

    case = cases.TIMED[number]
    given = jax.eval_shape(lambda: cases.arrays(replace(case, batch=2), jnp.bfloat16))
    queries, sources = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((case.batch, *a.shape[1:]), a.dtype, sharding=placed(a)),
        given,
    )
    form = form_of(queries, sources, heads=case.heads, scale=None, reads=case.reads)

    def forward(queries: Any, sources: Any, grads: Any) -> Any:
        return [out for out, _ in tpu.forward(form, queries, sources, logs=False)]

    def both(queries: Any, sources: Any, grads: Any) -> Any:
        results = tpu.forward(form, queries, sources)
        return [out for out, _ in results], tpu.backward(form, queries, sources, results, grads)

    call = forward if which == "forward" else both
    arrays = (queries, sources, [q.values for q in queries])
    outs = jax.tree.map(placed, jax.eval_shape(call, *arrays))
    program = jax.jit(call, out_shardings=outs).lower(*arrays).compile()
    profile = "".join(path.read_text() for path in folder.glob("*static-bundle-profile.txt"))
    found = re.findall(
        r"HLO: %(stream_attention_\w+)[^\n]*(?:\n -[^\n]*)*?STORE: \(\d+/(\d+)", profile
    )
    return {
        "kernels": sorted(set(re.findall(r"%(stream_attention_[a-z]+)", program.as_text()))),
        "temporaries": program.memory_analysis().temp_size_in_bytes,
        "bundles": {name: int(count) for name, count in found},
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), sys.argv[3])))

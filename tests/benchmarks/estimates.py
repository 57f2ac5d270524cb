"""What the TPU's compiler says of a program that never runs: import this before JAX.

XLA's own instructions have the compiler's estimate of cycles; a kernel's cycles are its scheduled
bundles times its steps, which leaves out what waits for memory. Milliseconds are at the clock that
fits the public peaks.
"""

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(tempfile.mkdtemp(prefix="bundles-of-"))
os.environ["LIBTPU_INIT_ARGS"] = (
    f"--xla_jf_dump_to={FOLDER} --xla_jf_dump_llo_text=true"
    " --xla_jf_dump_llo_pass_label_regex=.*static-bundle-profile.*"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

from fusekit.plan.hlo import costs  # noqa: E402
from fusekit_tpu.chips import Chip  # noqa: E402


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


def priced(
    function: Callable[..., Any], given: Sequence[Any], chip: Chip, steps: Callable[[str], int]
) -> dict[str, Any]:
    """Estimated milliseconds of all together, of XLA's part and of each kernel, whose body runs
    `steps(name)` times; and temporaries."""
    compiled = jax.jit(function).lower(*given).compile()
    memory, clock = compiled.memory_analysis(), chip.clock or 1.0
    known = costs(compiled.as_text() or "", {"data": 1})
    found: dict[str, Any] = {"xla_ms": round(1e3 * known.cycles / clock, 2), "kernels": {}}
    for name, count in bundles():
        cycles = count * steps(name)
        found["kernels"][name] = {"bundles": count, "ms": round(1e3 * cycles / clock, 2)}
    found["ms"] = round(found["xla_ms"] + sum(k["ms"] for k in found["kernels"].values()), 2)
    found["temp_mib"] = round(memory.temp_size_in_bytes / 2**20, 2)
    found["peak_mib"] = round(memory.peak_memory_in_bytes / 2**20, 1)
    return found

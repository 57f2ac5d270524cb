"""Whether seeds train faster as one program, side by side, or in turn."""

from typing import Any

from fusekit.jaxprs import equations
from fusekit.model import FusionModel
from fusekit.objective import traced

WORTH = {"cpu": 2000}
"""Steps in turn that running side by side must save before its compilation is paid for."""
WORTH_ELSEWHERE = 6000


def pays(model: FusionModel, compute: str, platform: str, *, steps: int, replicas: int) -> bool:
    """Whether `vmap` over replicas is expected to take less time than a loop, compilation included.

    On accelerators one program keeps the device busy, but takes longer to compile (18 s more for
    the default config on an H200, where a step in turn takes 2.6 ms). On a CPU, convolutions and
    products of matrices in batches, as in attention, become slower than in turn when every
    replica brings its own weights; plain products of matrices become faster
    (`tests/benchmarks/replicas.py`).
    """
    if steps * (replicas - 1) < WORTH.get(platform, WORTH_ELSEWHERE):
        return False
    return platform != "cpu" or not any(map(_slower, equations(traced(model, compute).jaxpr)))


def _slower(equation: Any) -> bool:
    name = equation.primitive.name
    if name != "dot_general":
        return name == "conv_general_dilated"
    _, (batch, _) = equation.params["dimension_numbers"]
    return bool(batch)

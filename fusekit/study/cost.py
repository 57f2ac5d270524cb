"""What a model costs: parameters, and FLOPs of one sample forward."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from fusekit.config.spec import Experiment
from fusekit.graph import resolve
from fusekit.graph.units import templates
from fusekit.report.parameters import count_parameters

Budget = Literal["parameters", "flops", "none"]


@dataclass(frozen=True)
class Cost:
    """Counted without a weight; losses' own parameters are left out."""

    experiment: Experiment

    @cached_property
    def parameters(self) -> int:
        counts = count_parameters(templates(resolve(self.experiment)), lambda path: False)
        return sum(c.parameters for name, c in counts.items() if not name.startswith("losses."))

    @cached_property
    def flops(self) -> int:
        """See `fusekit.report.flops`: loops count as often as they run."""
        from fusekit.model import FusionModel
        from fusekit.report.flops import node_flops

        return sum(node_flops(FusionModel(resolve(self.experiment), scan=2)).values())

    def of(self, budget: Budget) -> int:
        return self.flops if budget == "flops" else self.parameters

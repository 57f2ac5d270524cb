"""What a compiled program costs, from its optimised HLO text: `costs(compiled.as_text(), mesh)`."""

from fusekit.plan.hlo.collectives import Collective
from fusekit.plan.hlo.costs import Costs, costs
from fusekit.plan.hlo.parse import parse

__all__ = ["Collective", "Costs", "costs", "parse"]

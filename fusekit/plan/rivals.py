"""Fusions that would do the same for less: what a swap of the type would cost."""

from collections.abc import Iterator

from fusekit.component import FusionSpec
from fusekit.config.frozen import FrozenDict
from fusekit.config.registry import components
from fusekit.config.spec import Experiment
from fusekit.errors import ConfigError, FusekitError
from fusekit.graph import resolve
from fusekit.plan.traced import flops_of

WORTH = 0.02
"""Savings below this share of the step are not told."""


def rivals(experiment: Experiment, flops: float, task: str | None = None) -> Iterator[str]:
    """A line for each type that a fusion names as its rival and that makes the step cheaper.

    Args:
      experiment: of one stage.
      flops: of its step.
      task: whose step, where tasks alternate.
    """
    for name, spec in experiment.fusion.items():
        for rival in type(spec).rivals:
            other = _swapped(experiment, name, spec, rival)
            if other is None:
                continue
            less = sum(flops_of(resolve(other), experiment.train.batch, task).values())
            if less < flops * (1 - WORTH):
                yield (
                    f"fusion.{name}: with type: {rival} in place of {spec.type} a step has"
                    f" {less / flops - 1:+.0%} FLOPs"
                )


def _swapped(experiment: Experiment, name: str, spec: FusionSpec, rival: str) -> Experiment | None:
    """The experiment with another type of fusion and all fields that both have; `None` if that is
    not possible."""
    known = components("fusion")
    if rival not in known:
        return None
    fields = {
        field: getattr(spec, field)
        for field in spec.model_fields_set & set(known[rival].model_fields)
        if field != "type"
    }
    try:
        fusion = {**experiment.fusion, name: known[rival].model_validate(fields)}
        other = experiment.model_copy(update={"fusion": FrozenDict(fusion)})
        resolve(other)
    except (ConfigError, FusekitError, ValueError):
        return None
    return other

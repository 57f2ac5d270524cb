"""What is checked before anything is trained."""

import math
from collections.abc import Iterable, Mapping, Sequence

from fusekit.config.spec import Experiment
from fusekit.errors import FusekitError, nearest
from fusekit.study.budget import KNOB, settings

Knobs = Mapping[str, Sequence[str]] | Sequence[str]


def metric_of(experiments: Mapping[str, Experiment], baseline: str, metric: str | None) -> str:
    """The metric to compare by. Raises `FusekitError` where a comparison would not be fair."""
    if baseline not in experiments:
        raise FusekitError(f"the baseline {baseline} is not among {', '.join(experiments)}")
    base = experiments[baseline]
    for name, experiment in experiments.items():
        for section in ("data", "modalities", "train", "losses", "metrics"):
            if getattr(experiment, section) != getattr(base, section):
                raise FusekitError(
                    f"{name} and {baseline} cannot be compared: their `{section}` differ"
                )
    found = metric or base.train.select or next(iter(base.metrics), None)
    if found is None:
        raise FusekitError("there is no metric to compare by")
    if found not in base.metrics:
        raise FusekitError(f"there is no metric {found}: {', '.join(base.metrics)}")
    return found


def check_rates(rates: Sequence[float] | None) -> None:
    """Raises `FusekitError` for what is no learning rate."""
    if rates is not None and not (rates and all(math.isfinite(r) and r > 0 for r in rates)):
        words = ", ".join(f"{rate:g}" for rate in rates) or "none"
        raise FusekitError(f"learning rates are finite and above 0, not {words}")


def check_knobs(knobs: Knobs, experiments: Mapping[str, Experiment]) -> None:
    """Raises `FusekitError` for a knob that has no form, or is of a model that takes no part."""
    for name in _named(knobs):
        if name not in experiments:
            close = nearest(name, experiments)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise FusekitError(
                f"a knob is of {name}, which takes no part: {', '.join(experiments)}{hint}"
            )
    for name, experiment in experiments.items():
        settings(experiment, knobs_of(knobs, name))


def _named(knobs: Knobs) -> Iterable[str]:
    return [name for name in knobs if name != "*"] if isinstance(knobs, Mapping) else ()


def knobs_of(knobs: Knobs, name: str) -> Sequence[str]:
    """Those of one model."""
    if isinstance(knobs, Mapping):
        return knobs.get(name, knobs.get("*", (KNOB,)))
    return knobs

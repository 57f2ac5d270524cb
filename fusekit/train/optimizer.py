"""From `train` to an optax transformation over canonical parameter paths."""

from collections.abc import Callable, Hashable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

import jax
import optax

from fusekit.component import OptimizerSpec
from fusekit.config.spec import Train
from fusekit.parameter import Axes

FROZEN = "frozen"
DEFAULT = "default"


@runtime_checkable
class ByAxes(Protocol):
    """An optimiser that treats arrays by the names of their axes, such as one of matrices."""

    def build_by_axes(
        self, learning_rate: Any, axes: Mapping[str, Axes]
    ) -> optax.GradientTransformation:
        """For a mapping from paths to arrays, with the names of each array's axes."""
        ...


def labeller(train: Train) -> Callable[[str], str]:
    """Says for a canonical parameter path which group optimises it, or `frozen`.

    A pattern is a path, a prefix of one (`image.layers.3`), or a glob (`*.bias`). The first group
    that matches, in the order of the config, takes the parameter.
    """

    def label(path: str) -> str:
        if train.trainable is not None and not any(matches(path, p) for p in train.trainable):
            return FROZEN
        for name, group in train.groups.items():
            if any(matches(path, pattern) for pattern in group.paths):
                return name
        return DEFAULT

    return label


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern is the path, a node or layer above it, or a glob that fits."""
    if path == pattern or path.startswith(pattern + "."):
        return True
    return any(c in pattern for c in "*?[") and (
        fnmatchcase(path, pattern) or fnmatchcase(path, pattern + ".*")
    )


def decays(path: str, ndim: int) -> bool:
    """Weight decay acts on matrices, not on biases, norms and other vectors."""
    return ndim >= 2 and not path.endswith(".bias")


def transformation(
    train: Train,
    steps: int,
    labels: Mapping[str, Any],
    axes: Mapping[str, Axes] | None = None,
) -> optax.GradientTransformation:
    """The optimiser: clipping over all parameters, then each group's own optimiser.

    Args:
      train: the declared training.
      steps: how many steps the schedule spans.
      labels: a tree like the parameters, of `<group>` or `<group>/vector` for what is not decayed.
      axes: names of the axes of each parameter, for labels by canonical path; `ByAxes` reads them.
    """
    schedule = train.schedule.build(steps)
    used = sorted(set(jax.tree.leaves(labels)))
    parts: dict[Hashable, optax.GradientTransformation] = {}
    for label in used:
        name, _, vector = label.partition("/")
        parts[label] = _group(train, name, schedule, axes, vector=bool(vector))
    grouped = optax.partition(parts, labels)
    if train.clip is None:
        return grouped
    return optax.chain(optax.clip_by_global_norm(train.clip), grouped)


def _group(
    train: Train, name: str, schedule: Any, axes: Mapping[str, Axes] | None, *, vector: bool
) -> optax.GradientTransformation:
    if name == FROZEN:
        return optax.set_to_zero()
    group = train.groups.get(name)
    peak = train.learning_rate * (1.0 if group is None else group.learning_rate)
    spec: OptimizerSpec = train.optimizer
    decay = None if group is None else group.weight_decay
    if "weight_decay" in type(spec).model_fields:
        if vector:
            spec = spec.model_copy(update={"weight_decay": 0.0})
        elif decay is not None:
            spec = spec.model_copy(update={"weight_decay": decay})

    def rate(step: Any) -> Any:
        return peak * schedule(step)

    if axes is not None and isinstance(spec, ByAxes):
        return spec.build_by_axes(rate, axes)
    return spec.build(rate)

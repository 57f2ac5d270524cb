"""Counts of parameters by node, from templates: no weight is allocated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import jax

from fusekit.graph.packing import step_name
from fusekit.graph.unit import Template, UnitId


@dataclass(frozen=True)
class Count:
    """How many numbers a node holds.

    Args:
      parameters: all of them, layers included.
      trainable: those that training changes.
      statistics: numbers that are no parameters: batch statistics, queues.
    """

    parameters: int = 0
    trainable: int = 0
    statistics: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(
            self.parameters + other.parameters,
            self.trainable + other.trainable,
            self.statistics + other.statistics,
        )


def count_parameters(
    units: Mapping[UnitId, Template], frozen: Callable[[str], bool]
) -> dict[str, Count]:
    """Counts by node; losses stand under `losses.<name>`.

    Args:
      units: as `fusekit.graph.units.templates` gives them.
      frozen: says for a canonical parameter path whether training leaves it alone.
    """
    found: dict[str, Count] = {}
    sizes: dict[int, tuple[dict[str, int], int]] = {}
    for unit, template in units.items():
        if id(template) not in sizes:
            sizes[id(template)] = (
                _sizes(template.params),
                sum(_sizes(template.variables).values()),
            )
        params, statistics = sizes[id(template)]
        mine = sum(size for path, size in params.items() if not frozen(f"{unit.path}.{path}"))
        count = Count(sum(params.values()), mine, statistics)
        found[unit.node] = found.get(unit.node, Count()) + count
    return found


def _sizes(tree: Any) -> dict[str, int]:
    """The size of each leaf by its path within the unit."""
    return {
        ".".join(step_name(step) for step in path): prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }

"""Components that judge: losses and metrics."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from fusekit.component.base import Component, Signatures
from fusekit.config.reference import Ref

if TYPE_CHECKING:
    import numpy as np
    from flax import nnx


class LossValue(NamedTuple):
    """A loss by row: `total [b]` and `weight [b]`; the loss is sum(total) / sum(weight).

    For a loss over tokens the weight is the row's number of tokens.
    """

    total: Any
    weight: Any


class LossSpec(Component):
    """An objective. Its module is called as `module(streams, *, rows, context) -> LossValue`,
    where `rows [b]` tells which rows have everything that the loss reads."""

    slot: ClassVar[str] = "loss"

    weight: Annotated[float, Field(ge=0.0, le=1e6)] = Field(1.0, description="its share")
    where: Ref | None = Field(None, description="a mask of the positions or rows that count")

    def fuses(self) -> frozenset[str]:
        """Roles under which its module takes a `fusekit.deferred.Deferred` as well as a stream."""
        return frozenset()

    def check(self, inputs: Signatures) -> None:
        """Raises `WiringError` if the inputs do not fit."""

    def build(self, inputs: Signatures, *, rngs: "nnx.Rngs") -> "nnx.Module":
        raise NotImplementedError


class MetricSpec(Component):
    """A figure of merit, computed on the host in float64 from what evaluation gathered.

    `compute(columns, rows)` gets NumPy arrays by role and a boolean `rows`; only true rows count.
    """

    slot: ClassVar[str] = "metric"

    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def check(self, inputs: Signatures) -> None:
        """Raises `WiringError` if the inputs do not fit."""

    def compute(self, columns: "Mapping[str, np.ndarray]", rows: "np.ndarray") -> float:
        raise NotImplementedError

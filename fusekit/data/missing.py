"""Injected missingness: which rows lose a modality, as a declared and repeatable pattern."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, model_validator

from fusekit.config.base import Declared
from fusekit.data.randomness import uniform

Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _text_keys(value: Any) -> Any:
    """In Python a class may be an integer; classes are compared as text."""
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else value


class Missing(Declared):
    """How often a modality is taken away.

    A number removes at random. A mapping removes not at random: its keys are values of `given`
    (`{rate: {3: 0.9}, given: label, default: 0.1}`). A row always loses the same modalities,
    whatever the order, batch or epoch, unless `each_epoch` asks for a new draw. What evaluation
    misses does not depend on the run's seed.
    """

    rate: Annotated[Share | dict[str, Share], BeforeValidator(_text_keys)] = Field(
        description="probability; or a mapping from values of `given` to probabilities"
    )
    given: str | None = Field(None, description="the modality or column that the rate depends on")
    default: Share = Field(0.0, description="probability for values that `rate` does not list")
    each_epoch: bool = Field(False, description="draw anew each epoch of training")
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("train", "validation", "test"), description="the splits that it applies to"
    )
    seed: int | None = Field(
        None,
        ge=0,
        description="of the pattern; default: the run's in train, 0 in validation and test",
    )

    @model_validator(mode="after")
    def _agree(self) -> "Missing":
        if isinstance(self.rate, dict) != (self.given is not None):
            raise ValueError("a mapping of rates and `given` go together")
        return self

    def probability(self, given: list[Any] | None, count: int) -> NDArray[np.float64]:
        """The rate of each of `count` rows; `given` holds the value of each, None if absent."""
        if not isinstance(self.rate, dict):
            return np.full(count, self.rate)
        rate, values = self.rate, given or [None] * count
        return np.array([rate.get(str(value), self.default) for value in values])

    def drawn(
        self,
        source: str,
        modality: str,
        rows: NDArray[np.int64],
        epochs: NDArray[np.int64],
        given: list[Any] | None,
        *,
        seed: int,
    ) -> NDArray[np.bool_]:
        """Which rows lose the modality. `seed` holds where the pattern has none of its own."""
        seed = seed if self.seed is None else self.seed
        epoch = epochs if self.each_epoch else 0
        draw = uniform(seed, "missing", source, modality, rows, epoch)
        return draw < self.probability(given, len(rows))

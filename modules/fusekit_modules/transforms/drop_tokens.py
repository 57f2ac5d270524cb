from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import Rate, register
from fusekit.errors import DataError
from fusekit_modules.transforms.arrays import ArrayTransformSpec


@register
class DropTokensSpec(ArrayTransformSpec):
    """Takes tokens out of a sequence `[time]` or `[time, features]`, which gets shorter.

    Each token goes with probability `rate`; if all would go, one drawn token stays.
    """

    type: Literal["drop_tokens"] = "drop_tokens"
    rate: Rate = Field(0.1, description="share of the tokens that go")
    keep: int = Field(0, ge=0, description="tokens at the start that always stay")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"modality": "text"}]

    def change(self, value: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        if value.ndim not in (1, 2):
            raise DataError(f"drop_tokens changes sequences; this array has shape {value.shape}")
        stays = rng.random(len(value)) >= self.rate
        stays[: self.keep] = True
        if len(value) and not stays.any():
            stays[rng.integers(len(value))] = True
        return value[stays]

"""A component's own auxiliary term."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import LossSpec, LossValue, Signatures, register
from fusekit.config.reference import Ref
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide


@register
class AuxiliarySpec(LossSpec):
    """The mean of a number that a component gives by row, such as `experts.balance`.

    A vector counts as the mean of its entries. Give its share as `weight`.
    """

    type: Literal["auxiliary"] = "auxiliary"
    input: Ref = Field(description="a port with one number a row")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"input": "head", "weight": 0.01}]

    def check(self, inputs: Signatures) -> None:
        """Numbers by row. Raises `WiringError` otherwise."""
        given = inputs["input"]
        if given.dtype != "float" or given.kind not in ("scalar", "vector"):
            raise WiringError(
                "an auxiliary term is one number a row",
                found=given,
                expected="a component's port such as experts.balance",
                field=("input",),
            )
        check_where(inputs, None)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Auxiliary":
        return Auxiliary()


class Auxiliary(nnx.Module):
    """Values `[b]` or `[b, n]`."""

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        values = keep(wide(streams["input"].values), valid)
        return summed(values if values.ndim == 1 else jnp.mean(values, axis=-1), valid)

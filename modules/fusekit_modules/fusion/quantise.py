"""Quantisation of features to codes."""

import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Count, FusionSpec, Outputs, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._codes import Codebook, scalar_levels
from fusekit_modules.layers.expect import expect_count
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.wide import wide

Levels = Annotated[int, Field(ge=2, le=100)]


@register
class QuantiseSpec(FusionSpec):
    """Vectors, tokens or the places of a grid, each replaced by a code vector: VQ-VAE (van den Oord
    et al. 2017), or with `levels` finite scalar quantisation (Mentzer et al. 2024).

    The gradient passes straight through. Ports: `codes`, integers, with the number of codes as
    classes; and of a codebook `commitment`, the mean of (z - code)^2 over what is valid, one number
    a row, for a loss to weigh: codes are moving averages and have no gradient. What is absent or
    padded moves no code.
    """

    type: Literal["quantise"] = "quantise"
    codes: Count = Field(512, description="size of the codebook")
    width: Width | None = Field(None, description="of a code: inputs are mapped to it; default not")
    decay: float = Field(0.99, ge=0.0, lt=1.0, description="of the moving averages")
    levels: tuple[Levels, ...] = Field(
        (), max_length=16, description="of each number of a code, in place of a codebook"
    )

    def infer(self, inputs: Signatures) -> Outputs:
        """The code vectors, their numbers and the commitment. Raises `WiringError` for more than
        one input, or what holds no features."""
        expect_count(inputs, least=1, most=1)
        ((role, given),) = inputs.items()
        if given.dtype != "float" or given.axes[-1:] not in (("embed",), ("channel",)):
            expected, path = "a vector, tokens or a feature map", ("inputs", role)
            message = f"{role!r} holds no features"
            raise WiringError(message, found=given, expected=expected, field=path)
        if self.levels and self.width not in (None, len(self.levels)):
            expected = f"no width: it is the number of levels, {len(self.levels)}"
            message = "the width is not that of the levels"
            raise WiringError(message, found=self.width, expected=expected, field=("width",))
        width = len(self.levels) or self.width or given.width
        classes = math.prod(self.levels) if self.levels else self.codes
        out = given.with_(sizes=(*given.sizes[:-1], (given.sizes[-1][0], width)), names=())
        numbers = out.with_(sizes=given.sizes[:-1], dtype="int", classes=classes)
        ports: dict[str, Signature] = {"out": out, "codes": numbers}
        if not self.levels:
            ports["commitment"] = Signature((), optional=given.optional)
        return ports

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Quantise":
        return Quantise(self, next(iter(inputs.values())), rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"codes": 5, "width": 3}, {"codes": 4}, {"levels": (3, 4)}]


class Quantise(nnx.Module):
    """`[b, ..., d] -> [b, ..., width]`."""

    def __init__(self, spec: QuantiseSpec, given: Signature, *, rngs: nnx.Rngs):
        self.levels, width = spec.levels, len(spec.levels) or spec.width
        axes = ("embed", "features")
        self.project = None if width is None else Linear(given.width, width, axes=axes, rngs=rngs)
        size = width or given.width
        self.codebook = (
            None if spec.levels else Codebook(spec.codes, size, decay=spec.decay, rngs=rngs)
        )

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        stream = next(iter(streams.values())).clean()
        x = stream.values
        z = wide(x if self.project is None else self.project(x))
        if self.codebook is None:
            values, codes = scalar_levels(z, self.levels)
            out = stream.with_(values=values.astype(x.dtype))
            return {"out": out.clean(), "codes": out.with_(values=codes).clean()}
        valid = stream.presence if x.ndim == 2 else stream.valid()
        leading = z.shape[:-1]
        valid = jnp.ones(leading[:1], bool) if valid is None else valid
        valid = valid.reshape(*valid.shape, *(1,) * (len(leading) - valid.ndim))
        valid = jnp.broadcast_to(valid, leading)
        flat = z.reshape(-1, z.shape[-1])
        nearest, codes = self.codebook(flat, valid.reshape(-1), context=context)
        nearest = nearest.reshape(z.shape)
        gap = jnp.where(valid, jnp.mean(jnp.square(z - nearest), axis=-1), 0.0)
        axes = tuple(range(1, gap.ndim))
        count = jnp.maximum(jnp.sum(valid, axis=axes), 1)
        commitment = Stream(jnp.sum(gap, axis=axes) / count, presence=stream.presence)
        values = nearest + (z - jax.lax.stop_gradient(z))
        out = stream.with_(values=values.astype(x.dtype)).clean()
        numbers = stream.with_(values=codes.reshape(leading)).clean()
        return {"out": out, "codes": numbers, "commitment": commitment.clean()}

"""Recalibration of feature maps by one another."""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Count, Coupling, FusionSpec, Outputs, Signatures, Width, register
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.fusion._aligned import expect_aligned, read_aligned
from fusekit_modules.layers.batch_norm import BatchNorm
from fusekit_modules.layers.conv import Conv


@register
class SsmaSpec(FusionSpec):
    """A gate over concatenated maps, by place and channel: SSMA (Valada et al. 2019, sec. 4.2).

    Of maps of one size, or of sequences of one length: with x all channels side by side, the gate
    is sigmoid(conv(relu(conv(x)))), its inner width that of x over `squeeze`; a convolution, with a
    batch norm if asked for, takes gate * x to `width`. An absent input is zeros in x.
    """

    type: Literal["ssma"] = "ssma"
    couples: ClassVar[Coupling] = "train"
    couples_because: ClassVar[str] = "batch norm takes its statistics over the batch"

    width: Width | None = Field(None, description="channels; default those of the first input")
    squeeze: Count = Field(16, description="by what the gate's inner width is divided")
    norm: Literal["batch", "none"] = Field("batch", description="after the last convolution")

    def infer(self, inputs: Signatures) -> Outputs:
        """As the inputs, of `width`. Raises `WiringError` if they are not of one size."""
        out = expect_aligned(inputs, grids=True)
        return out.with_(sizes=(*out.sizes[:-1], (out.sizes[-1][0], self.width or out.width)))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Ssma":
        return Ssma(self, inputs, rngs=rngs)

    def coupling(self) -> Coupling:
        return self.couples if self.norm == "batch" else "none"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"squeeze": 4}, {"squeeze": 4, "norm": "none", "width": 3}]


class Ssma(nnx.Module):
    """`[b, h, w, c_k]` each, or `[b, t, c_k]`, -> `[b, h, w, width]`."""

    def __init__(self, spec: SsmaSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        (first, *_), total = inputs.values(), sum(s.width for s in inputs.values())
        kernel, inner = (3,) * (len(first.sizes) - 1), max(total // spec.squeeze, 1)
        width = spec.width or first.width
        self.down = Conv(total, inner, kernel=kernel, rngs=rngs)
        self.up = Conv(inner, total, kernel=kernel, rngs=rngs)
        bias = spec.norm == "none"
        self.out = Conv(total, width, kernel=kernel, bias=bias, rngs=rngs)
        self.norm = None if bias else BatchNorm(width, rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, _, frame = read_aligned(streams)
        x = jnp.concatenate(values, axis=-1)
        inner = inside(jax.nn.relu(self.down(x)), frame.mask)
        gate = jax.nn.sigmoid(self.up(inner))
        context.collect("gate", gate)
        out = self.out(x * gate)
        if self.norm is not None:
            valid = frame.presence if frame.mask is None else frame.valid()
            out = self.norm(out, valid, context=context)
        return frame.with_(values=out).clean()


def inside(
    x: Float[Array, "b t *n d"], mask: Bool[Array, "b t"] | None
) -> Float[Array, "b t *n d"]:
    """Zeros where the first axis is padding, so that a convolution reads none."""
    if mask is None:
        return x
    return jnp.where(mask.reshape(*mask.shape, *(1,) * (x.ndim - 2)), x, jnp.zeros((), x.dtype))

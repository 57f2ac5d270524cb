"""Plain convolutional networks."""

from collections.abc import Mapping
from functools import reduce
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Count, Coupling, Signatures, StackSpec, Width, register
from fusekit.context import Context
from fusekit.layered import Edits, LayerOutput
from fusekit.stream import Signature, Stream
from fusekit_modules.encoders._maps import check_groups, check_map, check_odd, scaled
from fusekit_modules.layers.activation import ActivationName, activation
from fusekit_modules.layers.batch_norm import BatchNorm
from fusekit_modules.layers.conv import Conv
from fusekit_modules.layers.edits import refuse
from fusekit_modules.layers.entry import only
from fusekit_modules.layers.group_norm import GroupNorm


@register
class ConvSpec(StackSpec):
    """Convolutions over an image or a spectrogram, or over each frame of a video.

    A layer, which is a point too, is a convolution, a norm, an activation and a pooling by the
    greatest value (LeCun et al. 1998, figure 2, as it is built today). It divides height and width
    by `stride * pool`, rounded up. The result is a feature map; `.mean` pools it.
    """

    type: Literal["conv"] = "conv"
    couples: ClassVar[Coupling] = "train"
    couples_because: ClassVar[str] = "batch norm takes its statistics over the batch"

    widths: tuple[Width, ...] = Field(
        (32, 64, 128), min_length=1, max_length=64, description="channels after each layer"
    )
    kernel: int = Field(3, ge=1, le=31, description="odd size of the kernels")
    stride: Count = Field(1, description="places from one value of a convolution to the next")
    pool: Count = Field(2, description="places of which the greatest value is kept; 1 for none")
    norm: Literal["batch", "group", "none"] = Field(
        "batch", description="batch norm couples samples, group norm not"
    )
    groups: Count = Field(8, description="groups of channels, with group norm")
    activation: ActivationName = Field("relu", description="after every norm")

    def coupling(self) -> Coupling:
        return self.couples if self.norm == "batch" else "none"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"widths": (4, 6)}
        return [small, {**small, "norm": "group", "groups": 2, "stride": 2, "pool": 1}]

    def layers(self) -> int:
        return len(self.widths)

    def infer_start(self, inputs: Signatures) -> Signature:
        given = check_map(only(inputs), frames=True)
        check_odd(self.kernel, "kernel")
        if self.norm == "group":
            check_groups(self.groups, self.widths)
        return scaled(given, 1, given.width if len(given.sizes) > 2 else 1)

    def infer_layer(self, index: int, stream: Signature) -> Signature:
        strided = scaled(stream, self.stride, self.widths[index])
        return scaled(strided, self.pool, self.widths[index])

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Map":
        return Map(self.infer_start(inputs))

    def build_layer(self, index: int, stream: Signature, *, rngs: nnx.Rngs) -> "ConvLayer":
        return ConvLayer(self, index, stream, rngs=rngs)


class Map(nnx.Module):
    """A grid without channels gets one."""

    def __init__(self, start: Signature):
        self.spans, self.ndim = start.spans, len(start.sizes) + 1

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = only(streams).clean()
        values = stream.values
        values = values if values.ndim == self.ndim else jnp.expand_dims(values, -1)
        return Stream(values, stream.mask, stream.presence, spans=self.spans)


class ConvLayer(nnx.Module):
    """`[b, h, w, c] -> [b, i, j, o]`, or frame by frame with time after the batch. No hooks."""

    def __init__(self, spec: ConvSpec, index: int, before: Signature, *, rngs: nnx.Rngs):
        self.stride, self.pool = spec.stride, spec.pool
        self.activation: ActivationName = spec.activation
        self.spans = spec.infer_layer(index, before).spans
        width, kernel, bias = spec.widths[index], (spec.kernel, spec.kernel), spec.norm == "none"
        self.conv = Conv(
            before.width, width, kernel=kernel, stride=spec.stride, bias=bias, rngs=rngs
        )
        self.norm = _norm(spec, width, rngs)

    def __call__(
        self, stream: Stream, edits: Edits | None = None, *, context: Context
    ) -> LayerOutput:
        edits = edits or Edits()
        refuse(edits, "a convolution")
        x = stream.clean().values
        if x.ndim == 4:
            mask = None if stream.mask is None else stream.mask[:, :: self.stride]
            valid = stream.presence if mask is None else stream.with_(mask=mask).valid()
            y, mask = greatest(self._mapped(x, mask, valid, context), mask, self.pool)
            out = stream.with_(values=y, mask=mask, spans=self.spans)
            return LayerOutput(out, (None,) * len(edits.all))
        valid = stream.valid()  # of frames, which are maps of their own
        flat = x.reshape(-1, *x.shape[2:])
        y = self._mapped(flat, None, None if valid is None else valid.reshape(-1), context)
        y, _ = greatest(y, None, self.pool)
        out = stream.with_(values=y.reshape(*x.shape[:2], *y.shape[1:]))
        return LayerOutput(out, (None,) * len(edits.all))

    def _mapped(self, x: Array, mask: Array | None, valid: Array | None, context: Context) -> Array:
        """Convolution, norm and activation. `mask [b, i]` is of what comes out, `valid` of what
        counts in statistics over the batch."""
        y = self.conv(x)
        if isinstance(self.norm, BatchNorm):
            y = self.norm(y, valid, context=context)
        elif self.norm is not None:
            y = self.norm(y, mask)
        return activation(self.activation)(y)


def _norm(spec: ConvSpec, width: int, rngs: nnx.Rngs) -> BatchNorm | GroupNorm | None:
    match spec.norm:
        case "batch":
            return BatchNorm(width, rngs=rngs)
        case "group":
            return GroupNorm(width, spec.groups, rngs=rngs)
        case "none":
            return None


def greatest(
    x: Float[Array, "b h w c"], mask: Bool[Array, "b h"] | None, size: int
) -> tuple[Float[Array, "b i j c"], Bool[Array, "b i"] | None]:
    """The greatest valid value of each `size x size` places; at the end there may be fewer."""
    if size == 1:
        return x, mask
    batch, height, width, channels = x.shape
    lowest = jnp.finfo(x.dtype).min
    if mask is not None:
        x = jnp.where(mask[:, :, None, None], x, lowest)
        mask = mask[:, ::size]
    rest = [(0, 0), (0, -height % size), (0, -width % size), (0, 0)]
    x = jnp.pad(x, rest, constant_values=lowest)
    y = x.reshape(batch, x.shape[1] // size, size, x.shape[2] // size, size, channels)
    y = reduce(jnp.maximum, (y[:, :, i, :, j] for i in range(size) for j in range(size)))
    return y if mask is None else jnp.where(mask[:, :, None, None], y, 0), mask

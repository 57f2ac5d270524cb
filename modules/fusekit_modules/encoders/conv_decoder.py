"""Decoders of feature maps."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Count, Coupling, Signatures, StackSpec, Width, register
from fusekit.context import Context
from fusekit.errors import FusekitError, WiringError
from fusekit.layered import Branch, Edits, LayerOutput
from fusekit.stream import Signature, Stream
from fusekit_modules.encoders._maps import check_groups, check_map, check_odd
from fusekit_modules.encoders._norms import MapNormName, made_norm, normed
from fusekit_modules.layers.activation import ActivationName, activation
from fusekit_modules.layers.conv import Conv
from fusekit_modules.layers.entry import only, spans_of


@register
class ConvDecoderSpec(StackSpec):
    """Enlarges a feature map layer by layer.

    A layer, which is a point too, repeats every place `scale` times along height and width, then
    takes a convolution, a norm and an activation (Odena et al. 2016: no holes, as transposed
    convolutions leave). The operator `skip` adds to the enlarged map before the convolution. It
    takes maps, frames of maps, and tokens that were cut from a grid, such as those of a `vit`.
    """

    type: Literal["conv_decoder"] = "conv_decoder"
    hooks: ClassVar[frozenset[str]] = frozenset({"then"})
    couples: ClassVar[Coupling] = "train"
    couples_because: ClassVar[str] = "batch norm takes its statistics over the batch"

    widths: tuple[Width, ...] = Field(
        (128, 64, 32), min_length=1, max_length=64, description="channels after each layer"
    )
    scale: Count = Field(2, description="by what each layer multiplies height and width")
    kernel: int = Field(3, ge=1, le=31, description="odd size of the kernels")
    norm: MapNormName = Field("batch", description="batch norm couples samples, group norm not")
    groups: Count = Field(8, description="groups of channels, with group norm")
    activation: ActivationName = Field("relu", description="after every norm")

    def coupling(self) -> Coupling:
        return self.couples if self.norm == "batch" else "none"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"widths": (4, 2)}
        return [small, {**small, "norm": "group", "groups": 2, "kernel": 1, "scale": 3}]

    def layers(self) -> int:
        return len(self.widths)

    def infer_start(self, inputs: Signatures) -> Signature:
        given = only(inputs)
        check_odd(self.kernel, "kernel")
        if self.norm == "group":
            check_groups(self.groups, self.widths)
        if given.kind != "sequence":
            given = check_map(given, frames=True)
            missing = len(given.sizes) == 2
            return given.with_(sizes=(*given.sizes, ("channel", 1))) if missing else given
        if math.prod(size for _, size in given.grid) != given.length or len(given.grid) != 2:
            raise WiringError(
                "the tokens are not those of a map",
                found=given,
                expected="a feature map, or all tokens of a grid of two axes, without readouts",
                field=("input",),
            )
        if given.padded:
            message, expected = "padded tokens make no map", "a grid that is whole"
            raise WiringError(message, found=given, expected=expected, field=("input",))
        return Signature((*given.grid, ("channel", given.width)), optional=given.optional)

    def infer_layer(self, index: int, stream: Signature) -> Signature:
        first = 1 if len(stream.sizes) == 4 else 0
        kept, grown = stream.sizes[:first], stream.sizes[first : first + 2]
        sizes = (*kept, *((axis, size * self.scale) for axis, size in grown))
        spans = spans_of(stream, sizes[0][1]) if stream.spans else ()
        return stream.with_(sizes=(*sizes, ("channel", self.widths[index])), spans=spans, grid=())

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Start":
        return Start(self.infer_start(inputs))

    def build_layer(self, index: int, stream: Signature, *, rngs: nnx.Rngs) -> "DecoderLayer":
        return DecoderLayer(self, index, stream, rngs=rngs)


class Start(nnx.Module):
    """The map itself; tokens are laid out again, and a map without channels gets one."""

    def __init__(self, start: Signature):
        self.shape, self.spans = start.shape, start.spans

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = only(streams).clean()
        values = stream.values.reshape(-1, *self.shape)
        return Stream(values, stream.mask, stream.presence, spans=self.spans)


class DecoderLayer(nnx.Module):
    """`[b, h, w, c] -> [b, s h, s w, o]`, or frame by frame with time after the batch. It has the
    hook `then`, after `upsample`; a branch sees the enlarged map."""

    def __init__(self, spec: ConvDecoderSpec, index: int, before: Signature, *, rngs: nnx.Rngs):
        self.scale = spec.scale
        self.activation: ActivationName = spec.activation
        self.spans = spec.infer_layer(index, before).spans
        width, kernel, bias = spec.widths[index], (spec.kernel,) * 2, spec.norm == "none"
        self.conv = Conv(before.width, width, kernel=kernel, bias=bias, rngs=rngs)
        self.norm = made_norm(spec.norm, width, spec.groups, rngs=rngs)

    def __call__(
        self, stream: Stream, edits: Edits | None = None, *, context: Context
    ) -> LayerOutput:
        edits = edits or Edits()
        x, frames = stream.clean().values, stream.values.ndim == 5
        for axis in (2, 3) if frames else (1, 2):
            x = jnp.repeat(x, self.scale, axis=axis)
        mask = stream.mask
        if mask is not None and not frames:
            mask = jnp.repeat(mask, self.scale, axis=1)
        large = stream.with_(values=x, mask=mask, spans=self.spans)
        for branch in branches(edits):
            large = large.with_(values=large.values + branch.apply(large).values).clean()
        valid = large.presence if mask is None and not frames else large.valid()
        y = self.conv(large.values.reshape(-1, *x.shape[-3:]))
        if frames:  # each is a map of its own
            mask, valid = None, None if valid is None else valid.reshape(-1)
        y = normed(self.norm, y, mask, valid, context=context)
        y = activation(self.activation)(y).reshape(*x.shape[:-1], -1)
        return LayerOutput(large.with_(values=y).clean(), (None,) * len(edits.all))


def branches(edits: Edits) -> list[Branch]:
    """What operators add after `upsample`. Raises `FusekitError` for all else that they want."""
    found = []
    for edit in edits.all:
        wanted = [*(edit.hooks() - {"then"}), *(name for name in edit.then if name != "upsample")]
        if wanted:
            raise FusekitError(f"a decoder's layer adds after upsample alone, not {wanted[0]}")
        found += edit.then.values()
    return found

"""Convolutions along time."""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array
from pydantic import Field

from fusekit.component import Count, Depth, Signatures, StackSpec, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Edits, LayerOutput
from fusekit.stream import Signature, Stream
from fusekit_modules.layers.activation import ActivationName, activation
from fusekit_modules.layers.conv import Conv
from fusekit_modules.layers.edits import refuse
from fusekit_modules.layers.entry import only, spans_of
from fusekit_modules.layers.norm import LayerNorm


@register
class Conv1dSpec(StackSpec):
    """Convolutions along time, each followed by layer norm and an activation.

    Every layer divides the length by `stride`, rounded up. Padding is kept at zero before each
    convolution, so it does not reach what is valid. Temporal convolutions as in Bai et al. 2018,
    centred in place of causal.
    """

    type: Literal["conv1d"] = "conv1d"
    width: Width = Field(description="channels of every layer")
    depth: Depth = Field(3, description="layers")
    kernel: int = Field(3, ge=1, le=1001, description="odd size of the kernel")
    stride: Count = Field(1, description="places from one value to the next")
    activation: ActivationName = Field("gelu", description="after every norm")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"width": 4, "depth": 2}, {"width": 4, "depth": 2, "stride": 2, "kernel": 5}]

    def layers(self) -> int:
        return self.depth

    def infer_start(self, inputs: Signatures) -> Signature:
        given = only(inputs)
        if given.kind != "sequence" or given.dtype != "float":
            raise WiringError(
                f"a {given.kind} of {given.dtype} values where a sequence of numbers is due",
                found=given,
                expected="a signal or a sequence of features",
                field=("input",),
            )
        if len(given.spans) > 1:
            raise WiringError(
                "a convolution would run over the border of two spans",
                found=given,
                expected="a sequence of one origin",
                field=("input",),
            )
        if self.kernel % 2 == 0:
            raise WiringError(
                "a kernel without a centre", found=self.kernel, expected="odd", field=("kernel",)
            )
        width = given.width if "embed" in given.axes else 1
        sizes = (("time", given.length), ("embed", width))
        return given.with_(sizes=sizes, spans=spans_of(given, given.length), grid=())

    def infer_layer(self, index: int, stream: Signature) -> Signature:
        length = -(-stream.length // self.stride)
        sizes = (("time", length), ("embed", self.width))
        return stream.with_(sizes=sizes, spans=spans_of(stream, length))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Signal":
        return Signal(self.infer_start(inputs))

    def build_layer(self, index: int, stream: Signature, *, rngs: nnx.Rngs) -> "Conv1dLayer":
        return Conv1dLayer(self, stream, self.infer_layer(index, stream), rngs=rngs)


class Signal(nnx.Module):
    """A signal gets a channel axis."""

    def __init__(self, start: Signature):
        self.spans = start.spans

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = only(streams).clean()
        values = stream.values
        values = values if values.ndim == 3 else jnp.expand_dims(values, -1)
        return Stream(values, stream.mask, stream.presence, spans=self.spans)


class Conv1dLayer(nnx.Module):
    """Convolution, norm, activation. It has no hooks."""

    def __init__(self, spec: Conv1dSpec, before: Signature, after: Signature, *, rngs: nnx.Rngs):
        self.stride, self.spans = spec.stride, after.spans
        self.activation: ActivationName = spec.activation
        self.conv = Conv(
            before.width, spec.width, kernel=(spec.kernel,), stride=spec.stride, rngs=rngs
        )
        self.norm = LayerNorm(spec.width, rngs=rngs)

    def __call__(
        self, stream: Stream, edits: Edits | None = None, *, context: Context
    ) -> LayerOutput:
        edits = edits or Edits()
        refuse(edits, "a convolution")
        values = activation(self.activation)(self.norm(self.conv(stream.clean().values)))
        mask: Array | None = None if stream.mask is None else stream.mask[:, :: self.stride]
        out = stream.with_(values=values, mask=mask, spans=self.spans)
        return LayerOutput(out, (None,) * len(edits.all))

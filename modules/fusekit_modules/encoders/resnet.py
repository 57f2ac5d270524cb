"""Residual convolutional networks."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Count, Coupling, Signatures, StackSpec, Width, register
from fusekit.context import Context
from fusekit.layered import Edits, LayerOutput
from fusekit.stream import Signature, Stream
from fusekit_modules.encoders._maps import check_groups, check_map, check_odd, scaled
from fusekit_modules.layers.edits import refuse
from fusekit_modules.layers.entry import only
from fusekit_modules.layers.residual import ConvNorm, ConvNormName, Residual


@register
class ResnetSpec(StackSpec):
    """Residual network over an image or a spectrogram; a stage is a layer, and a point.

    He et al. 2016, basic blocks. Stage k has `width * 2^k` channels and, after the first, half
    the height and width. The result is a feature map; `.mean` pools it.
    """

    type: Literal["resnet"] = "resnet"
    couples: ClassVar[Coupling] = "train"
    couples_because: ClassVar[str] = "batch norm takes its statistics over the batch"

    width: Width = Field(64, description="channels of the first stage")
    stages: tuple[Count, ...] = Field(
        (2, 2, 2, 2), min_length=1, max_length=8, description="blocks of each stage"
    )
    stem: int = Field(3, ge=1, le=15, description="odd kernel of the first convolution")
    stem_stride: Count = Field(1, description="stride of the first convolution")
    norm: ConvNormName = Field("batch", description="batch norm couples samples, group norm not")
    groups: Count = Field(8, description="groups of channels, with group norm")

    def coupling(self) -> Coupling:
        return self.couples if self.norm == "batch" else "none"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"width": 4, "stages": (1, 1)}
        return [small, {**small, "norm": "group", "groups": 2, "stem_stride": 2}]

    def layers(self) -> int:
        return len(self.stages)

    def infer_start(self, inputs: Signatures) -> Signature:
        given = check_map(only(inputs))
        if self.norm == "group":
            check_groups(self.groups, (self.width,))
        check_odd(self.stem, "stem")
        return scaled(given, self.stem_stride, self.width)

    def infer_layer(self, index: int, stream: Signature) -> Signature:
        return scaled(stream, 2 if index else 1, self.width * 2**index)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "ResnetStem":
        self.infer_start(inputs)
        return ResnetStem(self, only(inputs), rngs=rngs)

    def build_layer(self, index: int, stream: Signature, *, rngs: nnx.Rngs) -> "ResnetStage":
        return ResnetStage(self, index, stream, rngs=rngs)


class ResnetStem(nnx.Module):
    """The first convolution, norm and rectifier."""

    def __init__(self, spec: ResnetSpec, given: Signature, *, rngs: nnx.Rngs):
        channels = given.width if len(given.sizes) == 3 else 1
        self.spans = scaled(given, spec.stem_stride, spec.width).spans
        self.stem = ConvNorm(
            channels,
            spec.width,
            kernel=spec.stem,
            stride=spec.stem_stride,
            norm=spec.norm,
            groups=spec.groups,
            rngs=rngs,
        )

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = only(streams).clean()
        x = stream.values if stream.values.ndim == 4 else jnp.expand_dims(stream.values, -1)
        y, mask = self.stem(x, stream.mask, stream.presence, context=context)
        return Stream(jax.nn.relu(y), mask, stream.presence, spans=self.spans)


class ResnetStage(nnx.Module):
    """Some residual blocks. It has no hooks."""

    def __init__(self, spec: ResnetSpec, index: int, before: Signature, *, rngs: nnx.Rngs):
        after = spec.infer_layer(index, before)
        self.spans, inputs, width = after.spans, before.width, after.width
        blocks = []
        for number in range(spec.stages[index]):
            stride = 2 if index and not number else 1
            blocks.append(
                Residual(
                    inputs, width, stride=stride, norm=spec.norm, groups=spec.groups, rngs=rngs
                )
            )
            inputs = width
        self.blocks = nnx.List(blocks)

    def __call__(
        self, stream: Stream, edits: Edits | None = None, *, context: Context
    ) -> LayerOutput:
        edits = edits or Edits()
        refuse(edits, "a convolutional stage")
        x, mask = stream.values, stream.mask
        for block in self.blocks:
            x, mask = block(x, mask, stream.presence, context=context)
        return LayerOutput(
            stream.with_(values=x, mask=mask, spans=self.spans), (None,) * len(edits.all)
        )

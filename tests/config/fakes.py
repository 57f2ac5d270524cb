"""A small set of components without any computing, so that messages do not depend on which
standard components there are."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fusekit.component import (
    Count,
    Depth,
    EncoderSpec,
    FusionSpec,
    HeadSpec,
    LossSpec,
    MetricSpec,
    ModalitySpec,
    OperatorSpec,
    OptimizerSpec,
    Positive,
    Rate,
    ScheduleSpec,
    SourceSpec,
    StackSpec,
    TransformSpec,
    Width,
)
from fusekit.config.reference import Ref, Refs
from fusekit.config.union import OneOf


class ImageSpec(ModalitySpec):
    """A picture."""

    type: Literal["image"] = "image"
    shape: tuple[Width, Width, Width] = Field(description="height, width, channels")


class TokensSpec(ModalitySpec):
    """Text as integers."""

    type: Literal["tokens"] = "tokens"
    vocab: Count = Field(description="how many different tokens there are")
    length: Count = Field(16, description="the longest text")


class LabelSpec(ModalitySpec):
    """A class."""

    type: Literal["label"] = "label"
    classes: Annotated[int, Field(ge=2)] | tuple[str, ...] = Field(
        description="how many classes, or their names"
    )


class MlpSpec(EncoderSpec):
    """Dense layers."""

    type: Literal["mlp"] = "mlp"
    width: Width = Field(32, description="of every layer")
    depth: Depth = Field(2, description="how many layers")
    dropout: Rate = Field(0.0, description="share of units that are dropped")
    activation: Literal["relu", "gelu", "tanh"] = Field("gelu", description="between layers")


class VitSpec(StackSpec):
    """A vision transformer."""

    type: Literal["vit"] = "vit"
    patch: tuple[Width, Width] = Field((8, 8), description="height and width of a patch")
    width: Width = Field(32, description="of the tokens")
    depth: Depth = Field(2, description="how many layers")
    heads: Count = Field(4, description="of attention")
    readout: Annotated[int, Field(ge=0, le=64)] = Field(0, description="learned readout tokens")
    mixer: Annotated[EncoderSpec, OneOf("encoder")] | None = Field(
        None, description="what stands between layers"
    )

    @model_validator(mode="after")
    def _divisible(self) -> "VitSpec":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        return self


class ConcatSpec(FusionSpec):
    """One after the other."""

    type: Literal["concat"] = "concat"
    axis: Literal["channel", "sequence"] = Field("channel", description="along which")


class LowRankSpec(FusionSpec):
    """A low-rank product."""

    type: Literal["low_rank"] = "low_rank"
    rank: Count = Field(4, description="of the product")
    width: Width = Field(32, description="of what comes out")


class CrossAttentionSpec(OperatorSpec):
    """One reads the other."""

    type: Literal["cross_attention"] = "cross_attention"
    heads: Count = Field(4, description="of attention")


class BottleneckSpec(OperatorSpec):
    """Tokens that all share."""

    type: Literal["bottleneck"] = "bottleneck"
    tokens: Count = Field(4, description="how many are shared")


class ClassifierSpec(HeadSpec):
    """Scores of classes."""

    type: Literal["classifier"] = "classifier"
    classes: Annotated[int, Field(ge=2)] = Field(description="how many classes there are")


class ProjectionSpec(HeadSpec):
    """A linear map."""

    type: Literal["projection"] = "projection"
    width: Width = Field(description="of what comes out")
    normalise: bool = Field(True, description="to length one")


class CrossEntropySpec(LossSpec):
    """Cross entropy."""

    type: Literal["cross_entropy"] = "cross_entropy"
    prediction: Ref = Field(description="the scores")
    target: Ref | Annotated[int, Field(ge=0)] = Field(description="the right class")
    smoothing: Rate = Field(0.0, description="of the targets")


class InfoNceSpec(LossSpec):
    """Contrast within the batch."""

    type: Literal["info_nce"] = "info_nce"
    inputs: Refs = Field(description="the views")
    temperature: Positive = Field(0.07, description="of the scores")


class AccuracySpec(MetricSpec):
    """The share of rows that are right."""

    type: Literal["accuracy"] = "accuracy"
    prediction: Ref = Field(description="the scores")
    target: Ref = Field(description="the right class")


class ArraysSpec(SourceSpec):
    """Arrays in a file."""

    type: Literal["arrays"] = "arrays"
    file: Annotated[str, Field(min_length=1)] = Field(description="path of the file")
    stages: tuple[Annotated[TransformSpec, OneOf("transform")], ...] = Field(
        (), description="done to each row, in order"
    )


class FlipSpec(TransformSpec):
    """Mirrors."""

    type: Literal["flip"] = "flip"
    rate: Rate = Field(0.5, description="how often")


class CropSpec(TransformSpec):
    """Cuts out."""

    type: Literal["crop"] = "crop"
    size: Width = Field(description="of what is left")


class AdamwSpec(OptimizerSpec):
    """Adam with decoupled decay."""

    type: Literal["adamw"] = "adamw"
    b1: Rate = Field(0.9, description="decay of the first moment")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.0, description="decay of weights")


class SgdSpec(OptimizerSpec):
    """Gradient descent."""

    type: Literal["sgd"] = "sgd"
    momentum: Rate = Field(0.0, description="share that is kept")


class ConstantSpec(ScheduleSpec):
    """Always the same."""

    type: Literal["constant"] = "constant"
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="steps of rising")


class CosineSpec(ScheduleSpec):
    """Half a cosine."""

    type: Literal["cosine"] = "cosine"
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="steps of rising")
    final: Rate = Field(0.0, description="share that is left")


FAKES = [
    ImageSpec,
    TokensSpec,
    LabelSpec,
    MlpSpec,
    VitSpec,
    ConcatSpec,
    LowRankSpec,
    CrossAttentionSpec,
    BottleneckSpec,
    ClassifierSpec,
    ProjectionSpec,
    CrossEntropySpec,
    InfoNceSpec,
    AccuracySpec,
    ArraysSpec,
    FlipSpec,
    CropSpec,
    AdamwSpec,
    SgdSpec,
    ConstantSpec,
    CosineSpec,
]

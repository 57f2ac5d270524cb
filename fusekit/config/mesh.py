"""The `mesh` section: over which devices arrays are split, and how."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fusekit.component import Count, Remat
from fusekit.config.frozen import FrozenDict
from fusekit.config.reference import NAME
from fusekit.config.train import Name, Section

Axis = Literal["data", "fsdp", "tensor", "expert", "sequence"]
Logical = Annotated[str, Field(pattern=rf"^{NAME}$")]
Rules = Annotated[dict[Logical, Axis | tuple[Axis, ...] | None], AfterValidator(FrozenDict)]
"""Logical axis -> the mesh axes over which it is split; null and an empty list: not split."""


class Mesh(Section):
    """Sizes of the mesh axes, and rules from logical axis names to them."""

    data: Literal[-1] | Count = Field(1, description="copies that see other rows; -1: the rest")
    fsdp: Count = Field(1, description="splits rows, and parameters too")
    tensor: Count = Field(1, description="splits heads, wide layers and vocabularies")
    expert: Count = Field(1, description="splits experts")
    sequence: Count = Field(1, description="splits tokens")
    slices: Axis = Field("data", description="the axis that crosses from one TPU slice to another")
    params: Rules = Field(
        default_factory=FrozenDict, description="rules for parameters, over defaults"
    )
    activations: Rules = Field(
        default_factory=FrozenDict, description="rules for activations, over defaults"
    )
    microbatches: Count = Field(
        1, description="a batch is taken in so many parts, whose gradients are added up"
    )
    remat: Remat = Field(
        "none", description="what stacks compute again in the backward pass, where they do not say"
    )
    saved: tuple[Name, ...] | None = Field(
        None, description="what remat: names and offload keep; default all that layers name"
    )
    layers: Literal["auto", "scan", "unroll"] = Field(
        "auto", description="run equal layers as a loop or one by one"
    )
    replicas: Literal["auto", "vmap", "loop"] = Field(
        "auto", description="run several seeds at once or in turn"
    )

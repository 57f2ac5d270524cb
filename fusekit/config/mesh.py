"""The `mesh` section: over which devices arrays are split, and how."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from fusekit.component import Count, Remat
from fusekit.config.frozen import FrozenDict
from fusekit.config.reference import NAME
from fusekit.config.sections import LOSSES
from fusekit.config.train import Name, Section
from fusekit.config.words import Say

Axis = Literal["data", "fsdp", "tensor", "expert", "sequence"]
Logical = Annotated[str, Field(pattern=rf"^{NAME}$")]
Rules = Annotated[dict[Logical, Axis | tuple[Axis, ...] | None], AfterValidator(FrozenDict)]
"""Logical axis -> the mesh axes over which it is split; null and an empty list: not split."""
Rest = Literal[-1] | Count
Layers = Literal["auto", "scan", "unroll"]
Kernel = Literal["auto", "reference", "xla", "pallas"]
Laid = Annotated[
    str,
    Field(pattern=rf"^(losses\.)?{NAME}$"),
    Say("the name of an encoder, a fusion or a head, or `losses.` and that of a loss"),
]

PRESETS: dict[str, dict[str, int]] = {
    "data": {"data": -1},
    "fsdp": {"fsdp": -1},
    "tensor": {"tensor": -1},
    "hybrid": {"data": -1, "fsdp": -1},
}
"""What a preset stands for; fields that are given win."""


class Own(Section):
    """How one component is laid out, where it is not as the mesh says."""

    params: Rules = Field(default_factory=FrozenDict, description="rules over those of the mesh")
    activations: Rules = Field(
        default_factory=FrozenDict, description="rules of what it gives, over those of the mesh"
    )
    remat: Remat | None = Field(None, description="in place of the mesh's and the stack's own")
    layers: Layers | None = Field(None, description="in place of the mesh's")
    kernel: Kernel | None = Field(None, description="in place of the mesh's")


class Mesh(Section):
    """Sizes of the mesh axes, and rules from logical axis names to them.

    An axis of size -1 takes the devices that the others leave; of `data` and `fsdp`, both -1,
    `fsdp` takes those of one TPU slice or of one machine of GPUs, and `data` crosses between.
    """

    preset: Literal["data", "fsdp", "tensor", "hybrid"] | None = Field(
        None,
        description="the axis of size -1; hybrid: fsdp within a slice or machine, data between",
    )
    data: Rest = Field(1, description="copies that see other rows; -1: the rest")
    fsdp: Rest = Field(1, description="splits rows, and parameters too; -1: the rest")
    tensor: Rest = Field(1, description="splits heads, wide layers and vocabularies; -1: the rest")
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
    layers: Layers = Field("auto", description="run equal layers as a loop or one by one")
    kernel: Kernel = Field(
        "auto",
        description="what runs operations that have kernels; auto: kernels where they are ahead",
    )
    replicas: Literal["auto", "vmap", "loop"] = Field(
        "auto", description="run several seeds at once or in turn"
    )
    components: Annotated[dict[Laid, Own], AfterValidator(FrozenDict)] = Field(
        default_factory=FrozenDict,
        description="encoders, fusions and heads laid out otherwise; of losses.NAME the kernel",
    )

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        preset = str(data.get("preset")) if isinstance(data, dict) else ""
        return {**PRESETS[preset], **data} if preset in PRESETS else data

    @model_validator(mode="after")
    def _one_rest(self) -> "Mesh":
        rest = [axis for axis in ("data", "fsdp", "tensor") if getattr(self, axis) == -1]
        if len(rest) > 1 and "tensor" in rest:
            raise ValueError(f"{' and '.join(f'`{axis}`' for axis in rest)} are all -1: give sizes")
        return self

    def rules(self) -> dict[str, Any]:
        """The tables, as `fusekit.layout.Layout.of` takes them."""
        own = {
            name: {"params": one.params, "activations": one.activations}
            for name, one in self.components.items()
        }
        return {"params": self.params, "activations": self.activations, "components": own}

    def own(self, node: str) -> tuple[str, Own | None]:
        """What is said of a node by name, and the name; of a part's node, that which it repeats."""
        name = node if node.startswith(LOSSES) else node.rpartition(".")[2]
        return name, self.components.get(name)

    def kernel_of(self, node: str) -> tuple[Kernel, bool]:
        """What runs the operations of a node, and whether that is said of it by name."""
        own = self.own(node)[1]
        if own is None or own.kernel is None:
            return self.kernel, False
        return own.kernel, True

"""Components that are nodes of the graph, other than stacks and operators."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from fusekit.component.base import Component, Outputs, Signatures
from fusekit.config.reference import Ref, Refs
from fusekit.stream import Signature

if TYPE_CHECKING:
    import numpy as np
    from flax import nnx

Absent = Literal["skip", "mask", "learned", "predicted", "renormalise"]


class NodeSpec(Component):
    """A component that is a node of the graph, with a name that others can refer to."""

    link: ClassVar[Literal["none", "softmax", "sigmoid", "inputs"]] = "none"
    """What makes probabilities of its values, over the last axis. `inputs`, of a fusion that
    combines answers: what makes them of those (see `fusekit.graph.link`)."""

    keep: bool = Field(
        False,
        description="allow that nothing uses this node; of an operator, keep the sublayers that it"
        " replaces",
    )

    def points(self) -> int:
        """How many points `@0 .. @n-1` a node without layers has: its outputs `@k`. 0: none."""
        return 0

    def infer(self, inputs: Signatures) -> Outputs:
        """What comes out for these inputs. Raises `WiringError`."""
        raise NotImplementedError

    def build(self, inputs: Signatures, *, rngs: "nnx.Rngs") -> "nnx.Module":
        """The module: `module(streams, *, context) -> Stream | dict[str, Stream]`."""
        raise NotImplementedError


class ModalitySpec(NodeSpec):
    """What one entry of a batch is. With `of` it is a view, computed from another modality."""

    slot: ClassVar[str] = "modality"

    optional: bool = Field(False, description="samples may lack it")
    of: Ref | None = Field(None, description="the modality that this view is made from")

    def signature(self) -> Signature:
        """Of the entry as it stands in a batch (not for views)."""
        raise NotImplementedError

    def collate(self, rows: "list[Any]") -> "tuple[np.ndarray, np.ndarray | None]":
        """Host side: raw values of the present rows -> (values, mask), padded to the declared
        sizes. Raises `DataError` naming the row for what does not fit."""
        raise NotImplementedError

    def infer(self, inputs: Signatures) -> Outputs:
        """For a view, from {"of": ...}; otherwise the batch entry as it is."""
        return self.signature()

    def build(self, inputs: Signatures, *, rngs: "nnx.Rngs") -> "nnx.Module":
        raise NotImplementedError(f"{self.type} is not a view")


class EncoderSpec(NodeSpec):
    """Turns a stream into features. Without `input` it reads `batch.<its own name>`."""

    slot: ClassVar[str] = "encoder"

    input: Ref | None = Field(None, description="what it reads; default batch.<its own name>")


class FusionSpec(NodeSpec):
    """Where streams meet. Each fusion documents what absence of an input means to it."""

    slot: ClassVar[str] = "fusion"

    rivals: ClassVar[tuple[str, ...]] = ()
    """Types that serve the same end in the same place: a plan says if one is cheaper."""

    inputs: Refs = Field((), description="what it reads: a list, or a mapping where roles differ")


class HeadSpec(NodeSpec):
    """Reads a stream out: logits, values, projections."""

    slot: ClassVar[str] = "head"
    defers: ClassVar[bool] = False
    """Whether its module has a method `deferred`, called as the module is, which may leave the last
    product to losses: it gives a `Stream`, or a `fusekit.deferred.Deferred`."""

    input: Ref = Field(description="what it reads")

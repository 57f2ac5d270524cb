"""Root of every spec, and the kinds of numbers that fields of specs are."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from fusekit.config.base import Declared
from fusekit.config.reference import Reference
from fusekit.stream import Signature

Coupling = Literal["none", "train", "always"]
Remat = Literal["none", "full", "dots", "names", "offload"]
Signatures = Mapping[str, Signature]
Outputs = Signature | dict[str, Signature]
"""One signature, or several by port name; the node's own value is the port `out`."""

Width = Annotated[int, Field(ge=1, le=1_000_000)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Depth = Annotated[int, Field(ge=1, le=2_000)]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, le=1e12)]


class Component(Declared):
    """Root of every spec. Subclasses give `type: Literal["name"] = "name"` and register."""

    slot: ClassVar[str]
    couples: ClassVar[Coupling] = "none"
    """Whether a sample's result may depend on other samples of the batch: never, in training
    only (batch statistics), or always (in-batch contrast)."""
    couples_because: ClassVar[str] = ""

    type: Any

    def coupling(self) -> Coupling:
        """`couples`, or `none` where these settings do without what couples."""
        return self.couples

    def references(self) -> Iterator[tuple[tuple[str | int, ...], str, Reference]]:
        """Every reference of the spec as (field path, role, reference)."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Reference):
                yield (name,), name, value
            elif isinstance(value, Mapping):
                for role, item in value.items():
                    if isinstance(item, Reference):
                        yield (name, role), role, item
            elif isinstance(value, tuple):
                for index, item in enumerate(value):
                    if isinstance(item, Reference):
                        yield (name, index), str(item), item

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        """Field values with which the conformance suite tries the component, besides defaults."""
        return [{}]

    @classmethod
    def example_inputs(cls) -> list[dict[str, str]]:
        """Streams that fit the examples, as kinds of `fusekit.conformance.cases.KINDS` by role,
        where the suite cannot know the roles; none: it tries what the slot has."""
        return []

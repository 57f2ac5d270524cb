"""Components that bring rows: sources and transforms."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, field_validator

from fusekit.component.base import Component, Positive
from fusekit.component.node import ModalitySpec
from fusekit.config.frozen import FrozenDict
from fusekit.config.union import OneOf
from fusekit.data.missing import Missing
from fusekit.data.split import AsGiven, NoSplitError, Split, Told

if TYPE_CHECKING:
    import numpy as np

    from fusekit.data.rows import Rows, View


class TransformSpec(Component):
    """Changes raw rows on the host: `apply(row, rng) -> row`, with a NumPy generator.

    A row maps modalities to raw values and holds only what is present. `apply` gives a new
    mapping; arrays are not changed in place. The generator belongs to the row, the epoch and the
    transform's name, so adding a transform changes nobody else's randomness.
    """

    slot: ClassVar[str] = "transform"

    when: Literal["train", "always"] = Field("train", description="in training only, or always")

    def touches(self) -> tuple[str, ...] | None:
        """The modalities that `apply` changes or reads; None for any. Others are read faster."""
        return None

    def apply(self, row: dict[str, Any], rng: "np.random.Generator") -> dict[str, Any]:
        raise NotImplementedError


class SourceSpec(Component):
    """Where data comes from. Subclasses give `rows`; all else follows from it."""

    slot: ClassVar[str] = "source"

    provides: dict[str, str] = Field(
        default_factory=dict,
        description="which column is which modality: {image: jpg, label: cls}; default same names",
    )
    split: Split = Field(default_factory=AsGiven, description="the protocol: which rows train")
    missing: dict[str, Missing] = Field(
        default_factory=dict, description="modalities taken away from rows, by modality"
    )
    transforms: dict[str, Annotated[SerializeAsAny[TransformSpec], OneOf("transform")]] = Field(
        default_factory=dict, description="changes of raw rows by name, in order"
    )
    annotations: Annotated[dict[str, Path], AfterValidator(FrozenDict)] = Field(
        default_factory=FrozenDict,
        description="modalities by the files that an annotate stage wrote of this source",
    )
    standardise: tuple[str, ...] = Field(
        (), description="modalities scaled by mean and deviation of each feature in train rows"
    )
    weight: Positive | None = Field(
        None, description="share of the training rows among the sources; default: by size"
    )

    @field_validator("split", mode="before")
    @classmethod
    def _default_protocol(cls, value: Any) -> Any:
        """`split` without a type changes fields of the default protocol."""
        if isinstance(value, Mapping) and "type" not in value:
            default = cls.model_fields["split"].get_default(call_default_factory=True)
            return default.model_dump() | dict(value)
        return value

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> "Rows":
        """All rows, whatever their split. `modalities` are those declared, for sources that make
        up data; others ignore them. Raises `DataError` if the data cannot be read."""
        raise NotImplementedError

    def open(self, split: str, modalities: Mapping[str, ModalitySpec] | None = None) -> "View":
        """The rows of one split by the declared protocol. Raises `DataError`."""
        from fusekit.data.rows import View

        rows = self.rows(modalities or {})
        parts = self.split.parts(self._told(rows))
        if split not in parts:
            raise NoSplitError(split, tuple(parts))
        return View(rows, parts[split])

    def splits(self, modalities: Mapping[str, ModalitySpec] | None = None) -> tuple[str, ...]:
        """The splits that have rows."""
        rows = self.rows(modalities or {})
        return tuple(self.split.parts(self._told(rows)))

    def _told(self, rows: "Rows") -> Told:
        """What a protocol may know of the rows; a modality's name stands for its column too."""
        return Told(
            count=len(rows),
            given=rows.given(),
            repeats=rows.repeats(),
            column=lambda name: rows.column(self.provides.get(name, name)),
        )

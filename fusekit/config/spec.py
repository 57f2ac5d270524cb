"""An experiment: everything a user declares, as frozen specs.

    Experiment(modalities={"image": {"type": "image", "shape": [32, 32, 3]}}, ...)

takes nested dicts or spec objects and raises `ConfigError` with every problem, as `load` does
for files.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field

from fusekit.component import (
    EncoderSpec,
    FusionSpec,
    HeadSpec,
    LossSpec,
    MetricSpec,
    ModalitySpec,
    SourceSpec,
)
from fusekit.config import dangling, extent
from fusekit.config.frozen import FrozenDict
from fusekit.config.mesh import Mesh
from fusekit.config.meta import Meta
from fusekit.config.names import check
from fusekit.config.part import Part
from fusekit.config.scalars import show
from fusekit.config.sections import SECTIONS, VERSION
from fusekit.config.shape import tidied
from fusekit.config.train import GroupName, Section, Stage, Train
from fusekit.config.tree import Path
from fusekit.config.union import OneOf
from fusekit.config.validate import tidy
from fusekit.errors import ConfigError, Problem

S = TypeVar("S")
Entries = Annotated[dict[str, S], AfterValidator(FrozenDict)]
"""A section: specs by name."""


class Experiment(Section):
    """What there is, where and how it meets, what is read out and what is optimised."""

    version: Literal[1] = Field(VERSION, description="of the language")
    meta: Meta = Field(
        default_factory=lambda: Meta.model_validate({}), description="what a reader should know"
    )
    modalities: Entries[Annotated[ModalitySpec, OneOf("modality")]] = Field(
        default_factory=FrozenDict, description="everything a batch holds, labels and views too"
    )
    encoders: Entries[Annotated[EncoderSpec, OneOf("encoder")]] = Field(
        default_factory=FrozenDict, description="every stack: encoders, trunks, decoders"
    )
    fusion: Entries[Annotated[FusionSpec, OneOf("fusion")]] = Field(
        default_factory=FrozenDict, description="where and how streams meet"
    )
    heads: Entries[Annotated[HeadSpec, OneOf("head")]] = Field(
        default_factory=FrozenDict, description="what is read out"
    )
    parts: Annotated[dict[GroupName, Part], AfterValidator(FrozenDict)] = Field(
        default_factory=FrozenDict, description="pieces of the graph that are run again"
    )
    losses: Entries[Annotated[LossSpec, OneOf("loss")]] = Field(
        default_factory=FrozenDict, description="what is optimised"
    )
    metrics: Entries[Annotated[MetricSpec, OneOf("metric")]] = Field(
        default_factory=FrozenDict, description="what is measured"
    )
    data: Entries[Annotated[SourceSpec, OneOf("source")]] = Field(
        default_factory=FrozenDict, description="named sources"
    )
    train: Train = Field(
        default_factory=lambda: Train.model_validate({}), description="how the parameters are found"
    )
    stages: Annotated[dict[GroupName, Stage], AfterValidator(FrozenDict)] = Field(
        default_factory=FrozenDict, description="stages of training, one after another"
    )
    mesh: Mesh = Field(
        default_factory=lambda: Mesh.model_validate({}),
        description="over which devices arrays are split",
    )

    def __init__(self, /, **sections: Any):
        if problems := list(extent.check(sections)):
            raise ConfigError(problems)
        clean, problems = tidied(sections)
        problems += check(clean, sections)
        try:
            super().__init__(**clean)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(tidy([*problems, *dangling.check(sections)]))

    @classmethod
    def of(cls, sections: Mapping[str, Any]) -> "Experiment":
        """An experiment from one mapping. Raises `ConfigError`."""
        if not isinstance(sections, Mapping):
            raise ConfigError([Problem((), "an experiment is a mapping", show(sections))])
        return cls(**{str(name): value for name, value in sections.items()})

    @property
    def readable(self) -> dict[str, ModalitySpec]:
        """The modalities that the stage reads."""
        return {n: spec for n, spec in self.modalities.items() if n not in self.train.unread}

    def entries(self) -> Iterator[tuple[Path, Any]]:
        """Every named component with its config path, in the order of the sections."""
        for section in SECTIONS:
            for name, spec in getattr(self, section).items():
                yield (section, name), spec


def experiment(**sections: Any) -> Experiment:
    """The same as `Experiment(**sections)`."""
    return Experiment(**sections)

"""The `train` section, which is one stage of training, and `stages`, which are several."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from fusekit.component import Count, OptimizerSpec, Positive, ScheduleSpec
from fusekit.config.base import Declared
from fusekit.config.frozen import FrozenDict
from fusekit.config.reference import NAME, Ref
from fusekit.config.union import OneOf, read
from fusekit.config.words import Say
from fusekit.errors import ConfigError

Steps = Annotated[int, Field(ge=1, le=1_000_000_000)]
Factor = Annotated[float, Field(ge=0.0, le=1e6)]
Glob = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_.*?\[\]!-]+$", max_length=500),
    Say("a pattern of parameter paths, node first, such as text.layers.*.attention"),
]
"""A pattern over canonical parameter paths, node first: `text.layers.*.attention.query`. A path
also means everything below it."""

EPOCHS = 10


class Section(Declared):
    """Root of the sections that are no components."""


class Group(Section):
    """Parameters that are optimised in another way than the rest."""

    paths: tuple[Glob, ...] = Field(min_length=1, description="which parameters, as globs")
    learning_rate: Factor = Field(1.0, description="times the stage's learning rate")
    weight_decay: Factor | None = Field(None, description="in place of the optimizer's")


GroupName = Annotated[str, Field(pattern=rf"^{NAME}$")]
Groups = Annotated[dict[GroupName, Group], AfterValidator(FrozenDict)]


def _default(slot: str, name: str) -> Any:
    component, problems = read(slot, {"type": name})
    if component is None:
        raise ConfigError(problems)
    return component


Name = Annotated[str, Field(pattern=rf"^{NAME}$"), Say("the name of an entry")]
Mixture = Annotated[dict[Name, Positive], AfterValidator(FrozenDict)]
"""Sources, and the share of the rows that each gives."""
Moved = Annotated[dict[Glob, Glob], AfterValidator(FrozenDict)]
Copied = Annotated[dict[Glob, Glob | tuple[Glob, ...]], AfterValidator(FrozenDict)]


class Start(Section):
    """Which parameters a stage begins with. What is found nowhere is as it is before training."""

    stage: Name | None = Field(None, description="an earlier stage; default the one before")
    folder: Path | None = Field(None, description="a folder of checkpoints, in place of a stage")
    average: Mixture | None = Field(None, description="stages by weight, in place of one of them")
    only: tuple[Glob, ...] | None = Field(None, description="the paths to take, as globs")
    rename: Moved = Field(
        default_factory=FrozenDict,
        description="their paths, and what they are called here; `*` stands for one step on both",
    )
    copies: Copied = Field(
        default_factory=FrozenDict,
        description="paths here, and STAGE.path of what is copied there; of a list one an expert",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "Start":
        given = [n for n in ("stage", "folder", "average") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(f'`{n}`' for n in given)} are both given: give one")
        return self


class Task(Section):
    """One of several objectives that a stage takes in turn, or adds up."""

    losses: tuple[Name, ...] = Field(min_length=1, description="their names")
    data: Mixture | None = Field(None, description="sources by weight; default those of the stage")
    weight: Positive = Field(1.0, description="share of the steps, or factor of the sum")


Tasks = Annotated[dict[GroupName, Task], AfterValidator(FrozenDict)]
BatchName = Annotated[
    str,
    Field(pattern=rf"^batch\.{NAME}$"),
    Say("`batch.` and the name of a modality, such as batch.keyframe"),
]
Writes = Annotated[dict[BatchName, Ref], AfterValidator(FrozenDict)]


class Train(Section):
    """How the parameters are found. `steps` or `epochs` says how long."""

    type: Literal["train", "annotate"] = Field(
        "train", description="annotate: parameters stay, and outputs are stored as data"
    )
    batch: Count = Field(64, description="rows of a batch, over all devices")
    steps: Steps | None = Field(None, description="how many steps, in place of epochs")
    epochs: Annotated[float, Field(gt=0.0, le=1e6)] | None = Field(
        None, description=f"how often every row is seen; {EPOCHS} if steps are not given"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="of all randomness")
    learning_rate: Positive = Field(1e-3, description="the peak that the schedule scales")
    optimizer: Annotated[OptimizerSpec, OneOf("optimizer")] = Field(
        default_factory=lambda: _default("optimizer", "adamw"),
        description="how gradients become updates",
    )
    schedule: Annotated[ScheduleSpec, OneOf("schedule")] = Field(
        default_factory=lambda: _default("schedule", "constant"),
        description="the learning rate over the steps",
    )
    clip: Positive | None = Field(None, description="the largest global norm of a gradient")
    groups: Groups = Field(
        default_factory=FrozenDict,
        description="parameters with another rate or decay; the first fits",
    )
    trainable: tuple[Glob, ...] | None = Field(
        None, description="the parameters that change, as globs; all others are frozen; default all"
    )
    losses: tuple[Name, ...] | None = Field(
        None, description="the names of those that are optimised; default all"
    )
    metrics: tuple[Name, ...] | None = Field(
        None, description="the names of those that are measured; default all"
    )
    data: Mixture | None = Field(None, description="sources by weight; default all, as declared")
    unread: tuple[Name, ...] = Field(
        (), description="modalities that are not read, so that data may lack them"
    )
    kept: tuple[Ref, ...] = Field(
        (), description="what other stages read of this, so that it is no dead end"
    )
    tasks: Tasks = Field(
        default_factory=FrozenDict, description="losses with data of their own, by name"
    )
    turns: Literal["alternate", "sum"] = Field(
        "alternate", description="one task a step, or the sum of all in every step"
    )
    without: tuple[Name, ...] = Field((), description="operators that are left away")
    start: Name | Start | None = Field(
        None, description="which parameters to begin with: a stage, or rules"
    )
    write: Writes = Field(
        default_factory=FrozenDict,
        description="of an annotate stage: modalities, and what they are in later stages",
    )
    compute: Literal["float32", "bfloat16"] = Field("float32", description="dtype of activations")
    evaluate_every: Steps | None = Field(None, description="steps; default each epoch")
    checkpoint_every: Steps | None = Field(None, description="steps; default each epoch")
    select: str | None = Field(None, description="the metric that chooses the best checkpoint")

    @model_validator(mode="before")
    @classmethod
    def _length(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("steps") is None and data.get("epochs") is None:
            return {**data, "epochs": EPOCHS}
        return data

    @model_validator(mode="after")
    def _one_kind(self) -> "Train":
        if (self.type == "annotate") != bool(self.write):
            raise ValueError("`type: annotate` and `write` go together: one is lacking")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> "Train":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("`steps` and `epochs` are both given: give one")
        if self.tasks and (self.losses is not None or self.data is not None):
            raise ValueError("`tasks` have losses and data of their own: give either")
        return self

    @property
    def origin(self) -> Start | None:
        """What `start` says, a name as a stage."""
        if isinstance(self.start, str):
            return Start.model_validate({"stage": self.start})
        return self.start


class Stage(Train):
    """One of several stages. What it does not say is as `train` says."""

    partial: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _length(cls, data: Any) -> Any:
        return data

    def over(self, train: Train) -> Train:
        """This stage, with all that `train` says and it does not."""
        mine = {name: getattr(self, name) for name in self.model_fields_set}
        own = ("type", "write")
        base = {name: getattr(train, name) for name in train.model_fields_set if name not in own}
        for groups in (("steps", "epochs"), ("tasks", "losses", "data")):
            if any(mine.get(name) is not None for name in groups):
                base = {name: value for name, value in base.items() if name not in groups}
        return Train(**{**base, **mine})

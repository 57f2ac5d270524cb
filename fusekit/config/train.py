"""The `train` section: one stage of training."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from fusekit.component import Count, OptimizerSpec, Positive, ScheduleSpec
from fusekit.config.base import Declared
from fusekit.config.frozen import FrozenDict
from fusekit.config.reference import NAME
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


class Train(Section):
    """How the parameters are found. `steps` or `epochs` says how long."""

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
    def _one_length(self) -> "Train":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("`steps` and `epochs` are both given: give one")
        return self

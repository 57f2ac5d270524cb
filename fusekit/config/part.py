"""The `parts` section: a piece of the graph that is run again, with other inputs or weights."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fusekit.config.frozen import FrozenDict
from fusekit.config.reference import PATTERN, Ref
from fusekit.config.train import Name, Section
from fusekit.config.words import Say

Replaced = Annotated[
    str,
    Field(pattern=PATTERN, max_length=500),
    Say("a reference to what is replaced, such as image, text@2 or batch.text"),
]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class Ema(Section):
    """Weights that follow those of the original by an exponential moving average."""

    type: Literal["ema"] = "ema"
    decay: Decay = Field(0.995, description="what is kept of the average at each step")


class Part(Section):
    """Repeats everything upstream of `of`, operators included, up to what `given` replaces.

    Its nodes are `<part>.<node>`.
    """

    of: tuple[Ref, ...] = Field(min_length=1, description="the nodes that are run again")
    given: Annotated[dict[Replaced, Ref], AfterValidator(FrozenDict)] = Field(
        default_factory=FrozenDict, description="what is replaced, and by what"
    )
    without: tuple[Name, ...] = Field((), description="operators that are left away")
    weights: Literal["tied", "start"] | Ema = Field(
        "tied",
        description="the original's; copied from it once; or an average of it, without gradient",
    )

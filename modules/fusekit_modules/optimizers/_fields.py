"""Fields that optimizers share."""

from typing import Annotated

from pydantic import Field

from fusekit.component import OptimizerSpec, Positive

Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]
Decay = Annotated[float, Field(ge=0.0, le=1e3)]


class DecayingSpec(OptimizerSpec):
    """An optimizer with decoupled weight decay: a step takes off learning rate * weight_decay *
    parameter. Which parameters decay is the trainer's to say."""

    weight_decay: Decay = Field(0.0, description="share of a parameter, times the learning rate")


class MomentsSpec(DecayingSpec):
    """An optimizer with running means of the gradient and of its square."""

    b1: Momentum = Field(0.9, description="decay of the mean of gradients")
    b2: Momentum = Field(0.999, description="decay of the mean of their squares")
    eps: Positive = Field(1e-8, description="added to the root of the squares")

"""A program whose learning rate is a value and not a part of what is compiled."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fusekit.graph.graph import Graph
from fusekit.program import Program, Replicas
from fusekit.train.state import TrainState


class RateState(NamedTuple):
    """What all updates are multiplied by."""

    factor: Float[Array, ""]


def by_factor() -> optax.GradientTransformation:
    """Multiplies updates by a number that is part of the state."""

    def init(params: Any) -> RateState:
        return RateState(jnp.ones(()))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u: u * state.factor.astype(u.dtype), updates), state

    return optax.GradientTransformation(init, update)


class RatedProgram(Program):
    """A program whose states say by what their learning rate is multiplied.

    The updates of every optimizer that ends in `- learning_rate * direction` are proportional to
    it, decoupled weight decay included, so multiplying them is the same as another rate.
    """

    def __init__(self, graph: Graph, **options: Any):
        super().__init__(graph, after=by_factor(), **options)

    def rated(self, state: Any, factor: float) -> Any:
        """The state, to be trained at `factor` times the declared learning rate."""
        if isinstance(state, Replicas):
            return Replicas(tuple(self.rated(one, factor) for one in state.states))
        own, rate = state.optimizer
        new = jax.device_put(jnp.full_like(rate.factor, factor), rate.factor.sharding)
        return state.with_(optimizer=(own, RateState(new)))


def unrated(state: TrainState) -> TrainState:
    """One replica's state as an ordinary program has it."""
    return state.with_(optimizer=state.optimizer[0])

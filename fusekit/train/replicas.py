"""One state or several: what of training is done for each replica."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fusekit.program import Program, Replicas
from fusekit.train.state import TrainState


def host(array: Any) -> NDArray[Any]:
    """An array of the program in this host's memory, of all hosts if it is spread over several."""
    spread = isinstance(array, jax.Array) and not array.is_fully_addressable
    if spread and not array.is_fully_replicated:
        from jax.experimental import multihost_utils

        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def split(program: Program, state: Any) -> list[TrainState]:
    """The state of each replica."""
    return [program.replica(state, index) for index in range(program.replicas)]


def joined(program: Program, states: Sequence[TrainState]) -> Any:
    """The inverse of `split`."""
    if program.replicas == 1:
        return states[0]
    if program.vmapped:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return Replicas(tuple(states))


def step_of(state: Any) -> int:
    """Steps done; all replicas have done as many."""
    first = state.states[0] if isinstance(state, Replicas) else state
    return int(np.ravel(host(first.step))[0])


def name_of(program: Program, index: int) -> str:
    """How to call a replica in a file or message; nothing where there is only one."""
    return "" if program.replicas == 1 else f"replica {index}"

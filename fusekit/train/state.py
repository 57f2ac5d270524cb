"""The state of training: a frozen pytree."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Int


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "variables", "optimizer", "key"],
    meta_fields=[],
)
@dataclass(frozen=True)
class TrainState:
    """Everything that training changes.

    Args:
      step: steps done.
      params: by group; see `fusekit.graph.units.Group`.
      variables: what is not a parameter: batch statistics, queues.
      optimizer: the optimiser's state, over trainable parameters only.
      key: the random key of the run; step keys are folded from it.
    """

    step: Int[Array, ""]
    params: Any
    variables: Any
    optimizer: Any
    key: Array

    def with_(self, **changes: Any) -> "TrainState":
        return replace(self, **changes)

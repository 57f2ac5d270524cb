"""Activations by name, for specs to choose from."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

ActivationName = Literal["gelu", "relu", "silu", "tanh", "identity"]

_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "identity": lambda x: x,
}


def activation(name: ActivationName) -> Callable[[Array], Array]:
    """The function of that name; `gelu` is the exact one, with the error function."""
    return _FUNCTIONS[name]

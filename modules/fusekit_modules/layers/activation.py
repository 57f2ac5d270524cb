"""Activations by name, for specs to choose from.

Those with a slope of their own keep that alone for the backward pass, in the input's dtype: left to
automatic differentiation a scanned stack stores two or three arrays of every hidden unit instead
(docs/design/018). Both are computed in float32 at least.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fusekit_modules.layers.wide import wide

ActivationName = Literal["gelu", "relu", "silu", "tanh", "identity"]
Function = Callable[[Array], Array]


def _sloped(both: Callable[[Array], tuple[Array, Array]]) -> Function:
    """A function of each number, from what gives its value and its slope."""

    @jax.custom_jvp
    def function(x: Array) -> Array:
        return both(wide(x))[0].astype(x.dtype)

    @function.defjvp
    def _(given: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        (x,), (tangent,) = given, tangents
        value, slope = both(wide(x))
        return value.astype(x.dtype), slope.astype(x.dtype) * tangent

    return function


def _silu(x: Array) -> tuple[Array, Array]:
    share = jax.nn.sigmoid(x)
    return x * share, share * (1 + x * (1 - share))


def _gelu(below: Function) -> Callable[[Array], tuple[Array, Array]]:
    """x times the share of a normal distribution that lies below x (Hendrycks and Gimpel 2016)."""

    def both(x: Array) -> tuple[Array, Array]:
        share = below(x)
        return x * share, share + x * jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)

    return both


_exact = _sloped(_gelu(lambda x: 0.5 * jax.lax.erfc(-x * math.sqrt(0.5))))
_short = _sloped(_gelu(lambda x: 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))))
"""Off by a rounding of float32's 1 at most, and cheaper: on TPUs an erfc is several polynomials."""


def gelu(x: Array) -> Array:
    """The exact one, with the error function; in half precision by way of the cheaper form."""
    return (_short if x.dtype.itemsize < 4 else _exact)(x)


silu = _sloped(_silu)

_FUNCTIONS: dict[str, Function] = {
    "gelu": gelu,
    "relu": jax.nn.relu,
    "silu": silu,
    "tanh": jnp.tanh,
    "identity": lambda x: x,
}


def activation(name: ActivationName) -> Function:
    """The function of that name; `gelu` is the exact one, with the error function."""
    return _FUNCTIONS[name]

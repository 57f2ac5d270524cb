"""The largest of several values, with a gradient that rounding cannot break."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def largest(x: Array, axis: int) -> Array:
    """The maximum along an axis; the gradient goes to the first that has it.

    That of `jnp.max` goes where a value equals the maximum. Where a compiler computes the values
    again in the backward pass and rounds them otherwise, none may be equal, and it is 0 / 0.
    """
    at = jnp.expand_dims(jnp.argmax(jax.lax.stop_gradient(x), axis=axis), axis)
    return jnp.squeeze(jnp.take_along_axis(x, at, axis=axis), axis)

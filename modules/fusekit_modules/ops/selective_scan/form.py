"""What is asked of the selective scan: its arguments, checked, and both masks as one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fusekit.errors import FusekitError

CHUNK = 128
"""Of so many tokens only the state before them is kept between the passes."""

ABSENT, THERE, RESET = range(3)
"""Marks of a token: it is not there; it is; it is, and what was before it is forgotten."""


class Given(NamedTuple):
    """Arrays of a scan as the backends take them: sizes of the state before channels, so that
    channels are last everywhere. Without `marks` all tokens are there and none resets."""

    x: Float[Array, "b t d"]
    delta: Float[Array, "b t d"]
    a: Float[Array, "n d"]
    into: Float[Array, "b t n"]
    out: Float[Array, "b t n"]
    marks: Int[Array, "b t"] | None
    state: Float[Array, "b n d"]


class Results(NamedTuple):
    """What a scan gives: `kept` are the states before every `CHUNK` tokens, or something else
    where they were not asked for."""

    y: Float[Array, "b t d"]
    state: Float[Array, "b n d"]
    kept: Float[Array, "b c n d"]


def given_of(
    x: Any, delta: Any, a: Any, into: Any, out: Any, *, reset: Any, valid: Any, state: Any
) -> Given:
    """The checked arguments.

    Raises `FusekitError` for shapes and dtypes that do not fit.
    """
    if x.ndim != 3 or a.ndim != 2:
        raise FusekitError(
            f"a selective scan is of x [b, t, d] and a [d, n], not of {x.shape} and {a.shape}"
        )
    (batch, time, channels), size = x.shape, a.shape[1]
    tokens = (batch, time)
    _check("x", x, x.shape)
    _check("delta", delta, x.shape)
    _check("a", a, (channels, size))
    _check("into", into, (*tokens, size))
    _check("out", out, (*tokens, size))
    if not all((*x.shape, size)):
        raise FusekitError(
            f"a selective scan needs rows, tokens, channels and states, not {x.shape}"
        )
    for name, mask in (("reset", reset), ("valid", valid)):
        if mask is not None and (mask.shape != tokens or mask.dtype != bool):
            raise FusekitError(
                f"{name} is {mask.dtype} of shape {mask.shape}, not bool of {tokens}"
            )
    if state is None:
        state = jnp.zeros((batch, channels, size), jnp.promote_types(x.dtype, jnp.float32))
    _check("state", state, (batch, channels, size))
    marks = marks_of(reset, valid)
    return Given(x, delta, a.T, into, out, marks, jnp.swapaxes(state, 1, 2))


def marks_of(
    reset: Bool[Array, "b t"] | None, valid: Bool[Array, "b t"] | None
) -> Int[Array, "b t"] | None:
    """Marks of tokens; a reset on a token that is not there falls on the next one that is."""
    if reset is None:
        return None if valid is None else valid.astype(jnp.int32)
    if valid is None:
        return THERE + reset.astype(jnp.int32)
    count = jnp.cumsum(reset.astype(jnp.int32), axis=1)
    seen = jax.lax.cummax(jnp.where(valid, count, 0), axis=1)
    before = jnp.pad(seen[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(valid, THERE + (count > before), ABSENT).astype(jnp.int32)


def clean(given: Given) -> Given:
    """Zeros in place of what is not there, whatever it held: such a token leaves the state as it
    is, exp(0 · a) being 1, and gives zeros."""
    if given.marks is None:
        return given
    there = (given.marks != ABSENT)[..., None]
    x, delta, into, out = (
        jnp.where(there, array, 0) for array in (given.x, given.delta, given.into, given.out)
    )
    return given._replace(x=x, delta=delta, into=into, out=out)


def _check(name: str, array: Any, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise FusekitError(f"{name} has shape {array.shape}, not {shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise FusekitError(f"{name} is {array.dtype}, not of real numbers")

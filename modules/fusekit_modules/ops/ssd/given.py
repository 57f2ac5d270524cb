"""What a call of the state-space operations is given, checked and made safe to compute with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.errors import FusekitError


class Given(NamedTuple):
    """Arrays of one call; zeros stand for what is not there.

    Args:
      x: what enters the states, `[b, t, h, p]`.
      decay: logarithms of what is kept from step to step, in float32 at least; 0 at a reset.
      into: B, by which it enters.
      out: C, by which states are read.
      reset: tokens before which states are emptied; `None`: none. All of them are there.
      state: before the first token, in float32 at least.
    """

    x: Float[Array, "b t h p"]
    decay: Float[Array, "b t h"]
    into: Float[Array, "b t g n"]
    out: Float[Array, "b t g n"]
    reset: Bool[Array, "b t"] | None
    state: Float[Array, "b h p n"] | None


def high(dtype: Any) -> Any:
    """The type of decays, sums and states: float32 at least."""
    return jnp.promote_types(dtype, jnp.float32)


def carried(reset: Bool[Array, "b t"], valid: Bool[Array, "b t"]) -> Bool[Array, "b t"]:
    """Resets, each moved on to the next token that is there; one after which none is, is gone."""
    count = jnp.cumsum(reset, axis=1, dtype=jnp.int32)
    done = jax.lax.cummax(jnp.where(valid, count, 0), axis=1)
    before = jnp.pad(done[:, :-1], ((0, 0), (1, 0)))
    return valid & (count > before)


def given_of(
    x: Array,
    decay: Array,
    into: Array,
    out: Array,
    *,
    reset: Array | None,
    valid: Array | None,
    state: Array | None,
) -> Given:
    """Raises `FusekitError` for shapes that do not fit."""
    _check(x, decay, into, out, reset=reset, valid=valid, state=state)
    decay = decay.astype(high(x.dtype))
    into, out = into.astype(x.dtype), out.astype(x.dtype)
    if valid is not None:
        x, into, out = (_there(array, valid) for array in (x, into, out))
        decay = _there(decay, valid)
        reset = None if reset is None else carried(reset, valid)
    if reset is not None:
        decay = jnp.where(reset[..., None], 0, decay)
    state = None if state is None else state.astype(high(x.dtype))
    return Given(x, decay, into, out, reset, state)


def _there(array: Array, valid: Array) -> Array:
    """Zeros in place of what is not there."""
    return jnp.where(valid.reshape(*valid.shape, *(1,) * (array.ndim - 2)), array, 0)


def _check(x: Array, decay: Array, into: Array, out: Array, **others: Array | None) -> None:
    if x.ndim != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise FusekitError(
            f"x is {x.dtype}{list(x.shape)}: expected floats [batch, time, heads, size]"
        )
    batch, time, heads, size = x.shape
    if into.ndim != 4 or into.shape != out.shape or into.shape[:2] != (batch, time):
        raise FusekitError(
            f"into is {list(into.shape)} and out {list(out.shape)}: expected "
            f"[{batch}, {time}, groups, states] of both"
        )
    if heads % into.shape[2]:
        raise FusekitError(f"{into.shape[2]} groups do not divide {heads} heads")
    due: dict[str, tuple[int, ...]] = {
        "decay": (batch, time, heads),
        "reset": (batch, time),
        "valid": (batch, time),
        "state": (batch, heads, size, into.shape[3]),
    }
    for name, array in {"decay": decay, **others}.items():
        if array is not None and array.shape != due[name]:
            raise FusekitError(f"{name} is {list(array.shape)}: expected {list(due[name])}")

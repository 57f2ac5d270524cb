"""The recurrence said plainly, step by step, in float32 at least: what others must equal."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.ssd.given import Given, high

HIGHEST = jax.lax.Precision.HIGHEST


def unsupported(*_: Any) -> Reason:
    return None


def forward(given: Given, *, chunk: int) -> tuple[Float[Array, "b t h p"], Float[Array, "b h p n"]]:
    """What is read after each step, and the last state; `chunk` means nothing here."""
    batch, _, heads, size = given.x.shape
    state = given.state
    if state is None:
        state = jnp.zeros((batch, heads, size, given.into.shape[-1]), high(given.x.dtype))

    def one(state: Array, now: tuple[Array, ...]) -> tuple[Array, Array]:
        x, decay, into, out, *reset = now
        return step(state, x, decay, into, out, reset[0] if reset else None)

    over = (given.x, given.decay, given.into, given.out)
    over = over if given.reset is None else (*over, given.reset)
    state, found = jax.lax.scan(one, state, tuple(jnp.moveaxis(a, 1, 0) for a in over))
    return jnp.moveaxis(found, 0, 1).astype(given.x.dtype), state


def step(
    state: Float[Array, "b h p n"],
    x: Float[Array, "b h p"],
    decay: Float[Array, "b h"],
    into: Float[Array, "b g n"],
    out: Float[Array, "b g n"],
    reset: Array | None,
) -> tuple[Float[Array, "b h p n"], Float[Array, "b h p"]]:
    """state' = exp(decay) state + into (x) x, and out . state'; nothing is kept at a reset."""
    x, into, out = (array.astype(state.dtype) for array in (x, into, out))
    into, out = (jnp.repeat(array, x.shape[1] // array.shape[1], axis=1) for array in (into, out))
    kept = jnp.exp(decay)
    if reset is not None:
        kept = jnp.where(reset[:, None], 0, kept)
    state = kept[..., None, None] * state + x[..., None] * into[:, :, None, :]
    return state, jnp.einsum("bhpn,bhn->bhp", state, out, precision=HIGHEST)

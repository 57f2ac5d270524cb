"""The selective scan said plainly, in float32 at least: what every other backend must equal."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.selective_scan.form import ABSENT, CHUNK, RESET, Given, Results, clean


def unsupported(*_: Any) -> Reason:
    return None


def forward(given: Given, *, keep: bool = True) -> Results:
    """One token after another (Gu and Dao 2023, equation 2, with their algorithm 2's input)."""
    high = jnp.promote_types(given.x.dtype, jnp.float32)
    x, delta, into, out = (jnp.moveaxis(v.astype(high), 1, 0) for v in _tokens(clean(given)))
    a = given.a.astype(high)
    forgets = jnp.zeros(given.x.shape[:2], bool) if given.marks is None else given.marks == RESET

    def one(state: Array, now: Any) -> tuple[Array, tuple[Array, Array]]:
        x, delta, into, out, forgets = now
        decay = jnp.exp(delta[:, None, :] * a)
        decay = jnp.where(forgets[:, None, None], 0, decay)
        new = decay * state + (delta * x)[:, None, :] * into[:, :, None]
        return new, (jnp.sum(out[:, :, None] * new, axis=1), state)

    state, (y, before) = jax.lax.scan(
        one, given.state.astype(high), (x, delta, into, out, forgets.T)
    )
    y = jnp.moveaxis(y, 0, 1).astype(given.x.dtype)
    if given.marks is not None:
        y = jnp.where((given.marks != ABSENT)[..., None], y, 0)
    return Results(y, state, jnp.moveaxis(before[::CHUNK], 0, 1))


def backward(
    given: Given,
    kept: Float[Array, "b c n d"],
    grads: tuple[Float[Array, "b t d"], Float[Array, "b n d"]],
) -> Given:
    """Gradients of all that is given, from those of the results and of the last state."""
    floats = given._replace(marks=None)

    def run(floats: Given) -> tuple[Array, Array]:
        found = forward(floats._replace(marks=given.marks))
        return found.y, found.state

    (found,) = jax.vjp(run, floats)[1](grads)
    return found


def _tokens(given: Given) -> tuple[Array, Array, Array, Array]:
    return given.x, given.delta, given.into, given.out

"""The state-space recurrence of Mamba-2: the public functions."""

from collections.abc import Mapping
from functools import partial
from types import ModuleType

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.errors import FusekitError
from fusekit_modules.ops.dispatch import choose
from fusekit_modules.ops.ssd import reference, xla
from fusekit_modules.ops.ssd.given import given_of

_BACKENDS: Mapping[str, ModuleType] = {"xla": xla, "reference": reference}
"""Best first."""
CHUNK = 128
"""By the compiler's estimate the best of 64, 128 and 256 on TPU (docs/design/013)."""


def ssd(
    x: Float[Array, "b t h p"],
    decay: Float[Array, "b t h"],
    into: Float[Array, "b t g n"],
    out: Float[Array, "b t g n"],
    *,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    state: Float[Array, "b h p n"] | None = None,
    chunk: int = CHUNK,
    backend: str = "auto",
) -> tuple[Float[Array, "b t h p"], Float[Array, "b h p n"]]:
    """h_t = a_t h_{t-1} + B_t (x) x_t and y_t = C_t . h_t, with a_t = exp(decay_t): structured
    state-space duality (Dao and Gu 2024, equations 1 and 2, with one a_t a head).

    Mamba-2 gives dt_t x_t as `x` and dt_t A as `decay`, and adds D x_t to what it gets.

    Args:
      x: what enters the states. Products are in its type, sums in float32 at least.
      decay: logarithm of a_t, at most 0; kept in float32 at least.
      into: B, for each of the groups that share the heads evenly.
      out: C, likewise.
      reset: tokens before which the states are emptied, a_t = 0: where another item begins. At a
        token that is not there it waits for the next one that is.
      valid: tokens that are there; `None`: all. Others, whatever they hold, leave the states as
        they are, and get zeros.
      state: before the first token; `None`: zeros.
      chunk: how many tokens are worked on as one matrix; it changes results by rounding alone.
      backend: `auto`, `xla` or `reference`.

    Returns what is read after each token, in the type of `x`, and the last state.

    Under a mesh examples and heads may be cut; time is whole. Raises `FusekitError` for shapes that
    do not fit and `BackendError` for a backend that there is not.
    """
    if chunk < 1:
        raise FusekitError(f"a chunk of {chunk} tokens: expected one or more")
    given = given_of(x, decay, into, out, reset=reset, valid=valid, state=state)
    reasons = {name: partial(module.unsupported, given) for name, module in _BACKENDS.items()}
    return _BACKENDS[choose("ssd", backend, reasons).backend].forward(given, chunk=chunk)


def ssd_step(
    x: Float[Array, "b h p"],
    decay: Float[Array, "b h"],
    into: Float[Array, "b g n"],
    out: Float[Array, "b g n"],
    state: Float[Array, "b h p n"],
    *,
    reset: Bool[Array, "b"] | None = None,
    valid: Bool[Array, "b"] | None = None,
) -> tuple[Float[Array, "b h p"], Float[Array, "b h p n"]]:
    """One token of `ssd`, for generation: what is read after it, and the state.

    A reset at a token that is not there does nothing; give it with the next one that is. Raises
    `FusekitError` for shapes that do not fit.
    """
    one = [jnp.expand_dims(array, 1) for array in (x, decay, into, out)]
    marks = [None if mark is None else mark[:, None] for mark in (reset, valid)]
    given = given_of(*one, reset=marks[0], valid=marks[1], state=state)
    y, after = reference.forward(given, chunk=1)
    return y[:, 0], after

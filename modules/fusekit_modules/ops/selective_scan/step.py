"""One token of the selective scan, for generating one at a time."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.errors import FusekitError
from fusekit_modules.ops.selective_scan import reference
from fusekit_modules.ops.selective_scan.form import given_of


def selective_step(
    x: Float[Array, "b d"],
    delta: Float[Array, "b d"],
    a: Float[Array, "d n"],
    into: Float[Array, "b n"],
    out: Float[Array, "b n"],
    state: Float[Array, "b d n"],
    *,
    reset: Bool[Array, "b"] | None = None,
    valid: Bool[Array, "b"] | None = None,
) -> tuple[Float[Array, "b d"], Float[Array, "b d n"]]:
    """As `selective_scan` of one token: y and the state after it. A reset on a token that is not
    there is lost: it is to be given with the next that is.

    Raises `FusekitError` for arguments that do not fit.
    """
    if x.ndim != 2:
        raise FusekitError(f"a step is of x [b, d], not of shape {x.shape}")
    given = given_of(
        x[:, None],
        delta[:, None],
        a,
        into[:, None],
        out[:, None],
        reset=None if reset is None else reset[:, None],
        valid=None if valid is None else valid[:, None],
        state=state,
    )
    found = reference.forward(given)
    return found.y[:, 0], jnp.swapaxes(found.state, 1, 2)

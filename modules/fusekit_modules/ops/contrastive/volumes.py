"""Volumes of the parallelotopes that vectors span, of every row with every row.

The square root of a Gram determinant loses the digits that it is about where vectors are nearly
dependent, and its gradient there is infinite. Instead, lengths of what Gram-Schmidt leaves are
multiplied, each found from a difference of vectors and not of squares.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit_modules.ops.contrastive.scores import root

TINY = 1e-6


def volumes(anchor: Float[Array, "b d"], others: list[Float[Array, "c d"]]) -> Float[Array, "b c"]:
    """The volume that anchor i and the others of row j span: the square root of the determinant of
    their Gram matrix. Exact from `LEAST` on, half of that too much at most below, and of unit
    vectors no gradient by a vector is longer than about one."""
    basis, square = orthonormal(others)
    height = _heights(anchor, jnp.stack(basis))
    return root(height * square)


def orthonormal(
    vectors: list[Float[Array, "c d"]],
) -> tuple[list[Float[Array, "c d"]], Float[Array, "c"]]:
    """Orthonormal vectors by row, by Gram-Schmidt twice over, and the squared volume. What is
    nearly dependent leaves a vector shorter than one."""
    basis: list[Array] = []
    volume = jnp.ones(vectors[0].shape[0], vectors[0].dtype)
    for vector in vectors:
        rest = vector
        for _ in range(2):
            for known in basis:
                rest = rest - jnp.sum(rest * known, axis=1, keepdims=True) * known
        square = jnp.sum(jnp.square(rest), axis=1)
        volume = volume * square
        length = jnp.sqrt(jnp.maximum(square, TINY**2))
        basis.append(rest / length[:, None])
    return basis, volume


def _heights(anchor: Float[Array, "b d"], basis: Float[Array, "m c d"]) -> Float[Array, "b c"]:
    """The squared length of what is left of each anchor beside each row's basis.

    The gradient is that of |a|^2 - sum_m (a q_m)^2, which is the same for an orthonormal basis and
    takes products of matrices alone; the value is summed from what is left itself.
    """
    shares = jnp.einsum("bd,mcd->mbc", anchor, basis, precision="highest")
    rough = jnp.sum(jnp.square(anchor), axis=1)[:, None] - jnp.sum(jnp.square(shares), axis=0)
    fixed = jax.lax.stop_gradient((anchor, basis, shares))
    return rough + (_left(*fixed) - jax.lax.stop_gradient(rough))


def _left(
    anchor: Float[Array, "b d"], basis: Float[Array, "m c d"], shares: Float[Array, "m b c"]
) -> Float[Array, "b c"]:
    rest = anchor[:, None]
    for share, vector in zip(shares, basis, strict=True):
        rest = rest - share[..., None] * vector
    return jnp.sum(jnp.square(rest), axis=-1)

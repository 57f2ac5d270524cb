"""Rows brought into the order of their groups and back, by gathers alone, backward too."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Sorted(NamedTuple):
    """Where rows go.

    Args:
      order: which copy stands at each place; copy i is of row i // copies.
      place: where each copy stands: the inverse.
      sizes: of the groups, in order; copies of no group stand behind all of them.
    """

    order: Int[Array, "m"]
    place: Int[Array, "m"]
    sizes: Int[Array, "e"]

    @staticmethod
    def by(group: Int[Array, "m"], groups: int) -> "Sorted":
        """Sorted by group, those of one group as they came; numbers from `groups` on are none."""
        group = jnp.minimum(group, groups).astype(jnp.int32)
        if not isinstance(group.shape[0], int):  # exported: a running count is no plain StableHLO
            order = jnp.argsort(group)
            sizes = jnp.sum(group == jnp.arange(groups)[:, None], axis=1, dtype=jnp.int32)
            return Sorted(order, jnp.argsort(order), sizes)
        one_hot = group == jnp.arange(groups + 1)[:, None]
        ranks = jnp.cumsum(one_hot.astype(jnp.int32), axis=1)
        sizes = ranks[:, -1]
        begins = (jnp.cumsum(sizes) - sizes)[:, None]
        place = jnp.sum(jnp.where(one_hot, begins + ranks - 1, 0), axis=0)
        return Sorted(jnp.argsort(place), place, sizes[:groups])

    def spread(self, rows: Float[Array, "n d"], copies: int) -> Float[Array, "m d"]:
        """So many copies of each row, in order."""
        return _spread(copies, rows, self.order, self.place)

    def back(self, rows: Float[Array, "m d"]) -> Float[Array, "m d"]:
        """Copies as they were before."""
        return _spread(1, rows, self.place, self.order)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _spread(copies: int, rows: Array, order: Array, place: Array) -> Array:
    """Row `order // copies` at each place. Backward, each row gathers its copies' gradients and
    adds them: what is derived by rule would scatter them."""
    return rows[order // copies]


def _forward(copies: int, rows: Array, order: Array, place: Array) -> tuple[Array, Array]:
    return rows[order // copies], place


def _backward(copies: int, place: Array, grad: Array) -> tuple[Array, None, None]:
    found = grad[place]
    if copies == 1:
        return found, None, None
    return jnp.sum(found.reshape(-1, copies, grad.shape[1]), axis=1), None, None


_spread.defvjp(_forward, _backward)

"""Masks that are not made yet, so that attention makes only the piece that it works on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

Mask = Bool[Array, "*b q k"]


def alike(queries: Any, keys: Any) -> Any:
    """The rule of a `Sight` by which tokens read those of the same number, such as their segment's;
    attention may have a kernel for it."""
    return queries == keys


def beside(column: Any, axis: int) -> Any:
    """A column with a new axis at `axis`: -1 for queries, -2 for keys. NumPy arrays stay such."""
    known = isinstance(column, np.ndarray)
    return np.expand_dims(column, axis) if known else jnp.expand_dims(column, axis)


class Sight(NamedTuple):
    """Who may read whom, as a function of what describes the tokens.

    Args:
      rule: of queries `[*b, q, 1]` and keys `[*b, 1, k]` -> `[*b, q, k]`; each key is judged by
        itself, so that any piece of the keys gives that piece of the mask.
      queries: a pytree of columns `[*b, q]`.
      keys: a pytree of columns `[*b, k]`.
      ahead: what the rule must know of all keys together, put into the queries beforehand.
    """

    rule: Callable[[Any, Any], Any]
    queries: Any
    keys: Any
    ahead: Callable[[Any, Any], Any] | None = None

    def prepared(self) -> Any:
        """The queries as the rule wants them, `[*b, q, 1]`."""
        queries = jax.tree.map(lambda column: beside(column, -1), self.queries)
        return queries if self.ahead is None else self.ahead(queries, self._beside())

    def whole(self) -> Mask:
        """The mask of all queries and keys."""
        return jnp.asarray(self.rule(self.prepared(), self._beside()))

    def of(self, chosen: np.ndarray | None) -> "Sight":
        """That of the chosen queries (`[q]` booleans) alone."""
        if chosen is None or chosen.all():
            return self
        at = np.flatnonzero(chosen)
        return self._replace(queries=jax.tree.map(lambda column: column[..., at], self.queries))

    def _beside(self) -> Any:
        return jax.tree.map(lambda column: beside(column, -2), self.keys)

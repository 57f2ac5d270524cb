"""The assignment of least cost, within a compiled step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def assign(
    cost: Float[Array, "b m n"], wanted: Bool[Array, "b m"], free: Bool[Array, "b n"]
) -> Int[Array, "b m"]:
    """For each wanted row a column of its own such that the sum of costs is least; -1 for others.

    Exact, by shortest augmenting paths with potentials (Jonker and Volgenant 1987), one row after
    another, O(m n^2). Only free columns are given out; where there are fewer than wanted rows, as
    many rows as there are columns get one, the first of them. Costs are finite.
    """
    cost = jax.lax.stop_gradient(cost)
    enough = jnp.cumsum(wanted, axis=1) <= jnp.sum(free, axis=1, keepdims=True)
    return jax.vmap(_assign)(cost, wanted & enough, free)


class _Search(NamedTuple):
    """A search for the shortest path from one row; column 0 stands for where it starts."""

    at: Array
    done: Bool[Array, "n"]
    shortest: Float[Array, "n"]
    before: Int[Array, "n"]
    rows: Float[Array, "m"]
    columns: Float[Array, "n"]


def _assign(
    cost: Float[Array, "m n"], wanted: Bool[Array, "m"], free: Bool[Array, "n"]
) -> Int[Array, "m"]:
    count, width = cost.shape[0], cost.shape[1] + 1
    far = jnp.asarray(jnp.finfo(cost.dtype).max / 4, cost.dtype)
    closed = jnp.concatenate([jnp.ones((1,), bool), ~free])
    padded = jnp.concatenate([jnp.zeros((count, 1), cost.dtype), cost], axis=1)

    def add(row: int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        owner, rows, columns = state  # owner: the row of each column, -1 for none
        owner = owner.at[0].set(jnp.where(wanted[row], row, -1))
        start = _Search(
            jnp.zeros((), jnp.int32),
            closed.at[0].set(False),
            jnp.full((width,), far),
            jnp.zeros((width,), jnp.int32),
            rows,
            columns,
        )

        def step(search: _Search) -> _Search:
            done = search.done.at[search.at].set(True)
            reader = owner[search.at]
            reduced = padded[reader] - search.rows[reader] - search.columns
            nearer = ~done & (reduced < search.shortest)
            shortest = jnp.where(nearer, reduced, search.shortest)
            before = jnp.where(nearer, search.at, search.before)
            least = jnp.argmin(jnp.where(done, far, shortest)).astype(jnp.int32)
            delta, reached = shortest[least], done & ~closed | (jnp.arange(width) == 0)
            moved = search.rows.at[jnp.where(reached, owner, count)].add(delta, mode="drop")
            columns = search.columns - jnp.where(reached, delta, 0)
            shortest = shortest - jnp.where(done, 0, delta)
            return _Search(least, done, shortest, before, moved, columns)

        found = jax.lax.while_loop(lambda s: owner[s.at] >= 0, step, start)

        def back(state: tuple[Array, Array]) -> tuple[Array, Array]:
            at, owner = state
            source = found.before[at]
            return source, owner.at[at].set(owner[source])

        _, owner = jax.lax.while_loop(lambda s: s[0] != 0, back, (found.at, owner))
        return owner.at[0].set(-1), found.rows, found.columns

    owner = jnp.full((width,), -1, jnp.int32)
    zeros = jnp.zeros((count,), cost.dtype), jnp.zeros((width,), cost.dtype)
    owner, _, _ = jax.lax.fori_loop(0, count, add, (owner, *zeros))
    places = jnp.where(owner[1:] >= 0, owner[1:], count)
    return (
        jnp.full((count,), -1, jnp.int32)
        .at[places]
        .set(jnp.arange(width - 1, dtype=jnp.int32), mode="drop")
    )

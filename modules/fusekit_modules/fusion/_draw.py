"""Draws some tokens of several sequences: first how many of each, then which."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from fusekit_modules.modalities._view import by_position

Sizes = tuple[int, ...]


def drawn(
    key: PRNGKeyArray,
    among: Bool[Array, "b t"],
    sizes: Sizes,
    count: int,
    concentration: float | None,
) -> Bool[Array, "b t"]:
    """So many of the tokens that are marked, or all where they are fewer.

    Args:
      key: of the randomness.
      among: marks of the tokens of all sequences, one after another.
      sizes: tokens of each sequence.
      count: how many are drawn.
      concentration: of the Dirichlet distribution of the shares. `None`: shares are equal, and the
        order in which tokens are taken is the same for all rows.
    """
    rows, owner = among.shape[0], np.repeat(np.arange(len(sizes)), sizes)
    share_key, *keys = jax.random.split(key, 1 + len(sizes))
    shares = jnp.zeros((rows, len(sizes)), jnp.float32)
    if concentration is not None:
        shares = log_shares(share_key, concentration, shares.shape)
    random = concentration is not None
    heights = [order_of(k, (rows, n), random=random) for k, n in zip(keys, sizes, strict=True)]
    height = jnp.where(among, jnp.concatenate(heights, axis=1), 2.0)
    of, number = (jnp.broadcast_to(a, among.shape) for a in (owner, np.arange(len(owner))))
    _, _, shuffled = jax.lax.sort((of, height, number), dimension=1, num_keys=2)
    numbers = jnp.sum(among[:, None] & (owner == np.arange(len(sizes))[:, None]), axis=2)
    return marked(shuffled, apportioned(shares, numbers, sizes, count))


def order_of(key: PRNGKeyArray, shape: tuple[int, int], *, random: bool) -> Float[Array, "b n"]:
    """Numbers below one, the least of which are drawn first."""
    draw = partial(jax.random.uniform, key, dtype=jnp.float32)
    return by_position(draw, shape) if random else jnp.broadcast_to(draw(shape[1:]), shape)


def log_shares(
    key: PRNGKeyArray, concentration: float, shape: tuple[int, ...]
) -> Float[Array, "b m"]:
    """Logarithms of shares of a symmetric Dirichlet distribution, up to a constant a row: of those
    of some of the inputs, too."""
    if concentration == 1.0:  # the same distribution, drawn faster
        return -jax.random.gumbel(key, shape, jnp.float32)
    return jax.random.loggamma(key, concentration, shape, jnp.float32)


def apportioned(
    shares: Float[Array, "b m"], numbers: Int[Array, "b m"], sizes: Sizes, count: int
) -> Bool[Array, "b t"]:
    """Which tokens sequences give, of so many that each has, which come first: `count` in all, in
    proportion to the exponential of `shares` by Webster's method. The k-th token, from 0, of share
    s has the height (k + 1/2) / s, and the lowest are taken."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    there = jnp.asarray(place) < numbers[:, owner]
    height = jnp.asarray(np.log(place + 0.5), jnp.float32) - shares[:, owner]
    order = jnp.argsort(jnp.where(there, height, jnp.inf), axis=1, stable=True)
    first = jnp.broadcast_to(np.arange(len(owner)) < count, there.shape)
    return there & marked(order, first)


def marked(order: Int[Array, "b t"], marks: Bool[Array, "b t"]) -> Bool[Array, "b t"]:
    """Marks in the order given, each put to where it belongs."""
    return jnp.zeros_like(marks).at[jnp.arange(marks.shape[0])[:, None], order].set(marks)

"""The recurrence in chunks, as products of matrices, in plain JAX (Dao and Gu 2024, section 6).

Within a chunk what token i reads of token j is (C_i . B_j) exp(S_i - S_j), S the running sum of the
decays: attention without softmax. Between chunks only states pass. A reset is no decay of minus
infinity, but the end of a run: tokens of other runs are not read.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.ssd.given import Given, high

LEAST = -40.0
"""Decays below are taken as this: exp(-40) of a state is nothing in float32, and the differences of
sums stay exact to the same few digits as their sums."""
Runs = Int[Array, "b c q"] | None


def unsupported(*_: Any) -> Reason:
    return None


def forward(given: Given, *, chunk: int) -> tuple[Float[Array, "b t h p"], Float[Array, "b h p n"]]:
    """As `reference.forward`; products in the type of `x`, sums in float32 at least."""
    batch, time, heads, size = given.x.shape
    count = max(-(-time // chunk), 1)
    length = time if count == 1 else -(-time // (8 * count)) * 8

    def cut(array: Array, fill: str = "constant") -> Array:
        more = [(0, 0)] * array.ndim
        more[1] = (0, count * length - time)
        padded = jnp.pad(array, more, mode=fill) if more[1][1] else array
        return padded.reshape(batch, count, length, *array.shape[2:])

    runs = None
    if given.reset is not None:
        runs = cut(jnp.cumsum(given.reset, axis=1, dtype=jnp.int32), "edge")
    sums = _sums(jnp.moveaxis(jnp.maximum(cut(given.decay), LEAST), 3, 2), runs)
    x = cut(given.x)
    into, out = (jnp.moveaxis(cut(array), 3, 2) for array in (given.into, given.out))
    y = jax.checkpoint(_within)(x, sums, into, out, runs)
    if count > 1 or given.state is not None:
        before, last = _pass_on(given.state, *jax.checkpoint(_left)(x, sums, into, runs))
        y = y + jax.checkpoint(_read)(before, sums, out, runs)
    else:
        last = jax.checkpoint(_left)(x, sums, into, runs)[0][:, 0]
    y = y.astype(given.x.dtype).reshape(batch, count * length, heads, size)
    return y[:, :time], last


def _sums(decay: Float[Array, "b c h q"], runs: Runs) -> Float[Array, "b c h q"]:
    """Running sums of a chunk, which begin anew with every run."""
    if runs is None:
        return jnp.cumsum(decay, axis=-1)

    def join(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        same = left[1] == right[1]
        return jnp.where(same, left[0] + right[0], right[0]), right[1]

    return jax.lax.associative_scan(
        join, (decay, jnp.broadcast_to(runs[:, :, None], decay.shape)), axis=-1
    )[0]


def _within(
    x: Float[Array, "b c q h p"],
    sums: Float[Array, "b c h q"],
    into: Float[Array, "b c g q n"],
    out: Float[Array, "b c g q n"],
    runs: Runs,
) -> Float[Array, "b c q h p"]:
    """What tokens read of those before them in their chunk, and of themselves."""
    kind, length = high(x.dtype), x.shape[2]
    scores = jnp.einsum("bcgin,bcgjn->bcgij", out, into, preferred_element_type=kind)
    earlier = jnp.tril(jnp.ones((length, length), bool))
    if runs is not None:
        earlier = earlier & (runs[..., :, None] == runs[..., None, :])[:, :, None]
    fall = sums[..., :, None] - sums[..., None, :]
    kept = jnp.exp(jnp.where(earlier, fall, -jnp.inf))
    weights = (_of_heads(scores, x.shape[3]) * kept).astype(x.dtype)
    return jnp.einsum("bchij,bcjhp->bcihp", weights, x, preferred_element_type=kind)


def _left(
    x: Float[Array, "b c q h p"],
    sums: Float[Array, "b c h q"],
    into: Float[Array, "b c g q n"],
    runs: Runs,
) -> tuple[Float[Array, "b c h p n"], Float[Array, "b c h"]]:
    """The state that a chunk leaves of its own tokens, and how much of that before it stays."""
    end = sums[..., -1:]
    kept, stays = jnp.exp(end - sums), jnp.exp(end[..., 0])
    if runs is not None:
        kept = jnp.where((runs == runs[..., -1:])[:, :, None], kept, 0)
        stays = jnp.where((runs[..., -1] == _before(runs))[..., None], stays, 0)
    into = (_of_heads(into, x.shape[3]) * kept[..., None]).astype(x.dtype)
    states = jnp.einsum("bcjhp,bchjn->bchpn", x, into, preferred_element_type=high(x.dtype))
    return states, stays


def _pass_on(
    first: Float[Array, "b h p n"] | None,
    states: Float[Array, "b c h p n"],
    stays: Float[Array, "b c h"],
) -> tuple[Float[Array, "b c h p n"], Float[Array, "b h p n"]]:
    """The state before each chunk, and that after the last."""

    def one(state: Array, chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        own, stay = chunk
        return stay[..., None, None] * state + own, state

    first = jnp.zeros_like(states[:, 0]) if first is None else first
    over = (jnp.moveaxis(states, 1, 0), jnp.moveaxis(stays, 1, 0))
    last, before = jax.lax.scan(one, first, over)
    return jnp.moveaxis(before, 0, 1), last


def _read(
    before: Float[Array, "b c h p n"],
    sums: Float[Array, "b c h q"],
    out: Float[Array, "b c g q n"],
    runs: Runs,
) -> Float[Array, "b c q h p"]:
    """What tokens read of the state before their chunk."""
    kept = jnp.exp(sums)
    if runs is not None:
        kept = jnp.where((runs == _before(runs)[..., None])[:, :, None], kept, 0)
    read = (_of_heads(out, before.shape[2]) * kept[..., None]).astype(out.dtype)
    state = before.astype(out.dtype)
    return jnp.einsum("bchin,bchpn->bcihp", read, state, preferred_element_type=before.dtype)


def _before(runs: Int[Array, "b c q"]) -> Int[Array, "b c"]:
    """The run in which the token before each chunk stands."""
    return jnp.pad(runs[:, :-1, -1], ((0, 0), (1, 0)))


def _of_heads(array: Float[Array, "b c g *n"], heads: int) -> Float[Array, "b c h *n"]:
    """Of each head what its group has; of one group as it is, to be broadcast."""
    groups = array.shape[2]
    return array if groups in (1, heads) else jnp.repeat(array, heads // groups, axis=2)

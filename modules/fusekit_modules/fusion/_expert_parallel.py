"""Experts on different devices: tokens travel to their experts and back (Lepikhin et al. 2020).

No token is dropped and none is padded to the worst case. A round sends at most `SLACK` times a
balanced share from each device to each other; a first round always runs, and further rounds while
any device has tokens left for any other, which is decided for the whole mesh at once. With `n`
tokens of `k` choices on each of `d` devices, and `m` experts there, a round takes buffers of
`SLACK n k` tokens a device, and there are never more than `d min(1, m / k) / SLACK` rounds, rounded
up. Rounds after the first are computed again in the backward pass.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from fusekit.layout import Layout
from fusekit.scope import SELDOM

SLACK = 1.5

Gated = Callable[[Array, Array, Array, Array], Array]
"""(rows `[n, d]`, gates `[n, e]`, up, down) -> `[n, d]`: the sum of all experts, each times its
gate."""
Each = Callable[[Array, Array, Array, Array], Array]
"""(rows `[n, d]`, experts `[n, k]`, up, down) -> `[n, k, d]`; zeros for experts that are not."""


@dataclass(frozen=True)
class ExpertPlace:
    """Mesh axes of tokens `[b, t]`, of experts and of their hidden width."""

    mesh: Mesh
    tokens: P
    axis: str
    hidden: Any

    @property
    def devices(self) -> int:
        """That share the experts."""
        return self.mesh.shape[self.axis]

    @property
    def weights(self) -> tuple[P, P]:
        """Of `up` and `down`."""
        return P(self.axis, None, self.hidden), P(self.axis, self.hidden, None)

    @staticmethod
    def of(
        layout: Layout | None, shape: tuple[int, ...], experts: int, hidden: int
    ) -> "ExpertPlace | None":
        """For tokens `[b, t, d]`; `None` unless tokens and experts are both split over one axis."""
        if layout is None or layout.size == 1:
            return None
        axis, wide = layout.of_param((experts, hidden), ("expert", "mlp")).spec
        tokens = layout.of_stream(shape[:2], ("batch", "time")).spec
        taken = {name for axes in tokens for name in _names(axes)}
        if not isinstance(axis, str) or axis not in taken:
            return None
        wide = None if taken & set(_names(wide)) else wide
        return ExpertPlace(layout.mesh, tokens, axis, wide)


def travel(
    x: Float[Array, "b t d"],
    expert: Int[Array, "b t k"],
    weight: Float[Array, "b t k"],
    up: Float[Array, "e d h"],
    down: Float[Array, "e h d"],
    *,
    each: Each,
    place: ExpertPlace,
) -> Float[Array, "b t d"]:
    """sum_k weight_k MLP_k(x) of each token, its experts wherever they are."""
    tokens = P(*place.tokens, None)
    device = partial(_device, each=each, place=place)
    return jax.shard_map(
        device,
        mesh=place.mesh,
        in_specs=(tokens, tokens, tokens, *place.weights),
        out_specs=tokens,
        check_vma=False,
    )(x, expert, weight, up, down)


def together(
    x: Float[Array, "b t d"],
    gate: Float[Array, "b t e"],
    up: Float[Array, "e d h"],
    down: Float[Array, "e h d"],
    *,
    gated: Gated,
    place: ExpertPlace,
) -> Float[Array, "b t d"]:
    """sum_e gate_e MLP_e(x) where every expert works on every token: rows of the devices that share
    the experts are gathered, and what these make of them is added up on the way back."""
    tokens = P(*place.tokens, None)

    def device(x: Array, gate: Array, up: Array, down: Array) -> Array:
        def all_rows(array: Array) -> Array:
            rows = array.reshape(-1, array.shape[-1])
            return jax.lax.all_gather(rows, place.axis, tiled=True)

        first = jax.lax.axis_index(place.axis) * len(up)
        own = jax.lax.dynamic_slice_in_dim(all_rows(gate), first, len(up), axis=1)
        out = gated(all_rows(x), own, up, down)
        out = jax.lax.psum_scatter(out, place.axis, tiled=True)
        out = out if place.hidden is None else jax.lax.psum(out, place.hidden)
        return out.reshape(x.shape)

    return jax.shard_map(
        device,
        mesh=place.mesh,
        in_specs=(tokens, tokens, *place.weights),
        out_specs=tokens,
        check_vma=False,
    )(x, gate, up, down)


def stay(
    x: Float[Array, "b t d"],
    expert: Int[Array, "b t k"],
    weight: Float[Array, "b t k"],
    up: Float[Array, "e d h"],
    down: Float[Array, "e h d"],
    *,
    each: Each,
    layout: Layout | None,
) -> Float[Array, "b t d"]:
    """The same where tokens stay: each device sorts its own, and asks the experts that it has."""
    if layout is None or layout.size == 1:
        return _own(x, expert, weight, up, down, each=each)
    tokens = P(*layout.of_stream(x.shape[:2], ("batch", "time")).spec, None)
    taken = {name for axes in tokens for name in _names(axes)}
    spec = layout.of_param((len(up), up.shape[-1]), ("expert", "mlp")).spec
    axis, wide = (None if taken & set(_names(axes)) else axes for axes in spec)

    def device(x: Array, expert: Array, weight: Array, up: Array, down: Array) -> Array:
        if axis is not None:
            expert = expert - jax.lax.axis_index(axis) * len(up)
            expert = jnp.where((expert >= 0) & (expert < len(up)), expert, len(up))
        out = _own(x, expert, weight, up, down, each=each)
        over = _names(axis) + _names(wide)
        return jax.lax.psum(out, over) if over else out

    return jax.shard_map(
        device,
        mesh=layout.mesh,
        in_specs=(tokens, tokens, tokens, P(axis, None, wide), P(axis, wide, None)),
        out_specs=tokens,
        check_vma=False,
    )(x, expert, weight, up, down)


def _own(x: Array, expert: Array, weight: Array, up: Array, down: Array, *, each: Each) -> Array:
    """Of tokens and experts that are here."""
    out = each(x.reshape(-1, x.shape[-1]), expert.reshape(-1, expert.shape[-1]), up, down)
    parts = out.reshape(*expert.shape, x.shape[-1])
    return jnp.einsum("btkd,btk->btd", parts, weight.astype(x.dtype))


def _device(
    x: Array,
    expert: Array,
    weight: Array,
    up: Array,
    down: Array,
    *,
    each: Each,
    place: ExpertPlace,
) -> Array:
    """What one device does for its own tokens, and for those that come."""
    devices, here, choices = place.devices, up.shape[0], expert.shape[-1]
    rows, chosen = x.reshape(-1, x.shape[-1]), expert.reshape(-1)
    count = len(chosen)
    share = math.ceil(SLACK * count / devices)
    rounds = math.ceil(len(rows) * min(choices, here) / share)
    to = chosen // here
    rank, most = _ranked(to, devices)
    copies = jnp.repeat(rows, choices, axis=0)

    def sent(array: Array) -> Array:
        parts = array.reshape(devices, share, *array.shape[1:])
        return jax.lax.all_to_all(parts, place.axis, 0, 0).reshape(array.shape)

    def one(number: Any) -> Array:
        """What the copies whose turn it is get; zeros for the others."""
        slot = jnp.where(rank // share == number, to * share + rank % share, devices * share)
        letters = jnp.zeros((devices * share, x.shape[-1]), x.dtype)
        letters = letters.at[slot].set(copies, mode="drop")
        names = jnp.full((devices * share,), here, "int32")
        names = names.at[slot].set((chosen % here).astype("int32"), mode="drop")
        out = each(sent(letters), sent(names)[:, None], up, down)[:, 0]
        if place.hidden is not None:
            out = jax.lax.psum(out, place.hidden)
        return sent(out).at[slot].get(mode="fill", fill_value=0)

    found = one(0)
    if rounds > 1:
        left = jax.lax.pmax(most, place.mesh.axis_names)

        @jax.checkpoint
        def further(found: Array, number: Array) -> tuple[Array, None]:
            with jax.named_scope(SELDOM):
                more = jax.lax.cond(
                    number * share < left, lambda: one(number), lambda: jnp.zeros_like(found)
                )
            return found + more, None

        found, _ = jax.lax.scan(further, found, jnp.arange(1, rounds))
    parts = found.reshape(*expert.shape, x.shape[-1])
    return jnp.einsum("btkd,btk->btd", parts, weight.astype(x.dtype))


def _ranked(to: Int[Array, "n"], devices: int) -> tuple[Int[Array, "n"], Int[Array, ""]]:
    """The number of each copy among those that go where it goes, and the most for one place."""
    order = jnp.argsort(to, stable=True)
    counts = jnp.bincount(to, length=devices)
    begins = jnp.cumsum(counts) - counts
    return jnp.argsort(order) - begins[to], jnp.max(counts)


def _names(axes: Any) -> tuple[str, ...]:
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)

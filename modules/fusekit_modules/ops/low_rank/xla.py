"""A low-rank product in plain JAX, for any device: a scan over ranks.

So many ranks at a time that no more than `NUMBERS` of factors are held, all of them if they are few
enough; the backward pass makes factors again. The gradient by a factor is a product of the others,
from the front and from behind: nothing is divided by a factor, which may be 0.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.low_rank.form import Factor, Given

NUMBERS = 1 << 22
"""Numbers of factors that are held at once, if that is more than those of one rank: 16 MiB of them
in float32."""
ANY = 1024
"""Rows that a program for any number of them is taken to have."""


def unsupported(*_: Any) -> Reason:
    return None


def together(given: Given, numbers: int = NUMBERS) -> int:
    """Ranks at a time: the most that divide their number and hold no more than `numbers`."""
    count, rank, rows, width = given.sizes
    rows = rows if isinstance(rows, int) else ANY
    most = numbers // max(count * rows * width, 1)
    return max((n for n in range(1, rank + 1) if rank % n == 0 and n <= most), default=1)


def forward(given: Given, *, numbers: int = NUMBERS) -> Float[Array, "b out"]:
    """As `reference.forward`."""
    wide = given.wide

    def add(total: Array, part: Any) -> tuple[Array, None]:
        factors, mix = part
        product = reduce(jnp.multiply, _maps(given.vectors, factors, wide))
        return total + jnp.sum(mix.astype(wide)[:, None, None] * product, axis=0), None

    _, _, rows, width = given.sizes
    first = jnp.broadcast_to(given.bias.astype(wide), (rows, width))
    total, _ = _over_ranks(add, first, given, numbers)
    return total.astype(given.vectors[0].dtype)


def backward(given: Given, grad: Float[Array, "b out"], *, numbers: int = NUMBERS) -> Given:
    """As `reference.backward`."""
    wide, narrow = given.wide, given.vectors[0].dtype

    def add(sums: list[Array], part: Any) -> tuple[list[Array], Any]:
        factors, mix = part
        maps = _maps(given.vectors, factors, wide)
        others, product = _others(maps)
        mixed = mix.astype(wide)[:, None, None] * grad.astype(wide)
        slopes = [mixed if other is None else mixed * other for other in others]
        narrowed = [slope.astype(narrow) for slope in slopes]
        sums = [
            total + jnp.einsum("rbo,rdo->bd", slope, factor.weights, preferred_element_type=wide)
            for total, slope, factor in zip(sums, narrowed, factors, strict=True)
        ]
        by_factors = tuple(
            Factor(
                jnp.sum(slope, axis=1).astype(narrow),
                jnp.einsum("bd,rbo->rdo", vector, rounded, preferred_element_type=wide).astype(
                    narrow
                ),
            )
            for vector, slope, rounded in zip(given.vectors, slopes, narrowed, strict=True)
        )
        return sums, (by_factors, jnp.sum(grad.astype(wide) * product, axis=(1, 2)))

    first = [jnp.zeros(vector.shape, wide) for vector in given.vectors]
    by_vectors, (by_factors, by_mix) = _over_ranks(add, first, given, numbers)
    by_bias = jnp.sum(grad.astype(wide), axis=0)
    return Given(tuple(by_vectors), by_factors, by_mix, by_bias).in_dtype(given)


def _over_ranks(add: Any, first: Any, given: Given, numbers: int) -> tuple[Any, Any]:
    """Scans `add` over chunks of ranks; results that it gives of these are put end to end."""
    size, rank = together(given, numbers), given.sizes[1]
    parts = given.factors, given.mix
    if size == rank:
        return add(first, parts)
    cut = jax.tree.map(lambda a: a.reshape(rank // size, size, *a.shape[1:]), parts)
    total, found = lax.scan(add, first, cut)
    return total, jax.tree.map(lambda a: a.reshape(rank, *a.shape[2:]), found)


def _maps(
    vectors: Sequence[Array], factors: Sequence[Factor], wide: Any
) -> list[Float[Array, "rank b out"]]:
    """What each modality says, by rank."""
    return [
        offsets.astype(wide)[:, None]
        + jnp.einsum("bd,rdo->rbo", vector, weights, preferred_element_type=wide)
        for vector, (offsets, weights) in zip(vectors, factors, strict=True)
    ]


def _others(maps: list[Array]) -> tuple[list[Array | None], Array]:
    """Of each the product of all others, `None` if there are none; and the product of all."""
    before = list(accumulate(maps, jnp.multiply))
    after = list(accumulate(reversed(maps), jnp.multiply))[::-1]
    found = []
    for k in range(len(maps)):
        both = [*before[k - 1 : k], *after[k + 1 : k + 2]] if k else after[1:2]
        found.append(reduce(jnp.multiply, both) if both else None)
    return found, before[-1]

"""A low-rank product in plain JAX, for any device: a scan over ranks.

Each step multiplies plain matrices of one rank, which every backend does well: of all ranks in one
product they stand the wrong way round, and XLA's code for CPUs takes several times as long. Few
steps over small arrays are unrolled. The backward pass makes factors again. The gradient by a
factor is a product of the others, from the front and from behind: nothing is divided by a factor,
which may be 0.
"""

from functools import partial, reduce
from itertools import accumulate
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.low_rank.form import Factor, Given

NUMBERS = 1 << 22
"""Numbers of factors that unrolled steps make: 16 MiB of them in float32."""
STEPS = 4
"""Steps that are unrolled at most, as each takes time to compile."""
ANY = 1024
"""Rows that a program for any number of them is taken to have."""


def unsupported(*_: Any) -> Reason:
    return None


def together(given: Given, numbers: int = NUMBERS) -> int:
    """Ranks that are unrolled: no more than `STEPS`, and than make `numbers` of factors."""
    count, rank, rows, width = given.sizes
    rows = rows if isinstance(rows, int) else ANY
    return max(1, min(rank, STEPS, numbers // max(count * rows * width, 1)))


def forward(given: Given, *, numbers: int = NUMBERS) -> Float[Array, "b out"]:
    """As `reference.forward`."""
    wide = given.wide

    def add(total: Array, part: Any) -> tuple[Array, None]:
        factors, mix = part
        return total + mix.astype(wide) * reduce(jnp.multiply, _maps(given, factors)), None

    _, _, rows, width = given.sizes
    first = jnp.broadcast_to(given.bias.astype(wide), (rows, width))
    parts = given.factors, given.mix
    total, _ = lax.scan(add, first, parts, unroll=together(given, numbers))
    return total.astype(given.vectors[0].dtype)


def backward(given: Given, grad: Float[Array, "b out"], *, numbers: int = NUMBERS) -> Given:
    """As `reference.backward`."""
    wide, narrow = given.wide, given.vectors[0].dtype
    dot = partial(lax.dot_general, preferred_element_type=wide)

    def add(sums: list[Array], part: Any) -> tuple[list[Array], Any]:
        factors, mix = part
        steep = grad.astype(wide)  # in each step: else it is held for all of them
        others, product = _others(_maps(given, factors))
        mixed = mix.astype(wide) * steep
        slopes = [mixed if other is None else mixed * other for other in others]
        rounded = [slope.astype(narrow) for slope in slopes]
        sums = [
            total + dot(slope, factor.weights, (((1,), (1,)), ((), ())))
            for total, slope, factor in zip(sums, rounded, factors, strict=True)
        ]
        by_factors = tuple(
            Factor(
                jnp.sum(slope, axis=0).astype(narrow),
                dot(vector, short, (((0,), (0,)), ((), ()))).astype(narrow),
            )
            for vector, slope, short in zip(given.vectors, slopes, rounded, strict=True)
        )
        return sums, (by_factors, jnp.sum(steep * product))

    first = [jnp.zeros(vector.shape, wide) for vector in given.vectors]
    parts = given.factors, given.mix
    by_vectors, (by_factors, by_mix) = lax.scan(add, first, parts, unroll=together(given, numbers))
    found = Given(tuple(by_vectors), by_factors, by_mix, jnp.sum(grad.astype(wide), axis=0))
    return found.in_dtype(given)


def _maps(given: Given, factors: Any) -> list[Float[Array, "b out"]]:
    """What each modality says, of one rank."""
    wide = given.wide
    return [
        offsets.astype(wide) + lax.dot(vector, weights, preferred_element_type=wide)
        for vector, (offsets, weights) in zip(given.vectors, factors, strict=True)
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

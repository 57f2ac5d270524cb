"""Codes of real vectors: the nearest of a codebook, or the levels of each number."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from fusekit.context import Context
from fusekit.parameter import statistic
from fusekit_modules.layers.wide import wide

EPSILON = 1e-5


class Codebook(nnx.Module):
    """Code vectors that are moving averages of what is assigned to them (van den Oord et al. 2017,
    appendix A.1).

    Averages of counts and of sums are kept; a code is their quotient, counts smoothed by 1e-5 as in
    Razavi et al. 2019. What is not valid is assigned to none; a batch without anything valid
    changes nothing. Of a program over a mesh, sums are those of the global batch.
    """

    def __init__(self, codes: int, width: int, *, decay: float, rngs: nnx.Rngs):
        self.decay = decay
        first = jax.random.normal(rngs.params(), (codes, width))
        self.sums = statistic(first, ("vocab", "embed"))
        self.counts = statistic(jnp.ones((codes,)), ("vocab",))

    def vectors(self) -> Float[Array, "k d"]:
        counts = self.counts[...]
        total = jnp.sum(counts)
        smooth = (counts + EPSILON) / (total + len(counts) * EPSILON) * total
        return self.sums[...] / smooth[:, None]

    def __call__(
        self, z: Float[Array, "n d"], valid: Bool[Array, "n"], *, context: Context
    ) -> tuple[Float[Array, "n d"], Int[Array, "n"]]:
        """The nearest code vectors, without a gradient, and their numbers. In training the averages
        move after that."""
        z = jax.lax.stop_gradient(wide(z))
        vectors = self.vectors().astype(z.dtype)
        scores = 2 * jnp.einsum("nd,kd->nk", z, vectors, precision="highest")
        codes = jnp.argmax(scores - jnp.sum(jnp.square(vectors), axis=1), axis=1)
        codes = codes.astype(jnp.int32)
        if context.training:
            chosen = jax.nn.one_hot(codes, len(vectors), dtype=z.dtype) * valid[:, None]
            self._move(self.counts, jnp.sum(chosen, axis=0), jnp.any(valid))
            sums = jnp.einsum("nk,nd->kd", chosen, z, precision="highest")
            self._move(self.sums, sums, jnp.any(valid))
        return jnp.take(vectors, codes, axis=0), codes

    def _move(self, average: nnx.Variable, batch: Array, some: Array) -> None:
        old = average[...]
        new = self.decay * old + (1 - self.decay) * batch
        average[...] = jnp.where(some, new, old).astype(old.dtype)


def scalar_levels(
    z: Float[Array, "*b d"], levels: tuple[int, ...]
) -> tuple[Float[Array, "*b d"], Int[Array, "*b"]]:
    """Each number rounded to one of its levels, in [-1, 1], and the code of all (Mentzer et al.
    2024, section 3.1). Rounding passes the gradient on (straight through).

    With n levels z becomes round(h tanh(z + s) - o) / (n // 2) for h = (n - 1) / 2, a thousandth
    more; o = 1/2 and s = artanh(o / h) for even n, else 0, so that 0 stays 0. (The authors' code
    has tan for artanh and a thousandth less, with which it does not.)
    """
    count = np.asarray(levels)
    half = (count - 1) * (1 + 1e-3) / 2
    offset = np.where(count % 2 == 0, 0.5, 0.0)
    shift = np.arctanh(offset / half)
    h, o, s = (jnp.asarray(a, z.dtype) for a in (half, offset, shift))
    bounded = jnp.tanh(z + s) * h - o
    places = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
    base = [math.prod(levels[:k]) for k in range(len(levels))]
    digits = jnp.round(jax.lax.stop_gradient(bounded)).astype(jnp.int32) + jnp.asarray(count // 2)
    codes = jnp.sum(digits * jnp.asarray(base), axis=-1).astype(jnp.int32)
    return places / jnp.asarray(count // 2, z.dtype), codes

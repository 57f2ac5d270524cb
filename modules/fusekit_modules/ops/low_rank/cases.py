"""Shapes that tests and benchmarks share."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from fusekit_modules.ops.low_rank.form import Factor, Given

Missing = Literal["none", "some", "all"]


@dataclass(frozen=True)
class Case:
    """A call of the low-rank product.

    Args:
      name: what it stands for.
      rows: samples.
      widths: features of each modality.
      rank: products that are summed.
      out: features of the result.
      missing: which vectors are absent, and so zeros: none, a third of them, all.
    """

    name: str
    rows: int
    widths: tuple[int, ...]
    rank: int
    out: int
    missing: Missing = "none"


TESTED = (
    Case("one", 5, (3,), 2, 4),
    Case("two", 9, (17, 24), 3, 11),
    Case("three", 33, (20, 7, 40), 4, 19),
    Case("four", 24, (128, 256, 128, 130), 2, 136),
)
"""Small, with sizes that divide by nothing but the last's; for interpreted kernels."""

TIMED = (
    Case("features", 4096, (768,) * 4, 16, 512),
    Case("narrow", 4096, (128,) * 4, 16, 512),
    Case("a batch", 256, (768,) * 3, 4, 256),
)
"""Training on features that were extracted before; the same, narrow; a batch of a whole model."""


def arrays(case: Case, dtype: Any = jnp.float32, *, seed: int = 0) -> Given:
    """Normal vectors, zeros where absent; factors near 1, as the component starts them, of which
    some are exactly 0: an offset of 0, read by what is absent."""
    rng = np.random.default_rng(seed)
    share = {"none": 0.0, "some": 1 / 3, "all": 1.0}[case.missing]
    vectors, factors = [], []
    for width in case.widths:
        there = rng.random(case.rows) >= share
        vectors.append(rng.standard_normal((case.rows, width)) * there[:, None])
        offsets = 1 + 0.1 * rng.standard_normal((case.rank, case.out))
        offsets[:, 0] = 0
        weights = rng.standard_normal((case.rank, width, case.out)) / np.sqrt(width)
        factors.append(Factor(jnp.asarray(offsets, dtype), jnp.asarray(weights, dtype)))
    return Given(
        tuple(jnp.asarray(vector, dtype) for vector in vectors),
        tuple(factors),
        jnp.asarray(rng.standard_normal(case.rank) / np.sqrt(case.rank), dtype),
        jnp.asarray(rng.standard_normal(case.out), dtype),
    )

"""Shapes that tests and benchmarks share."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Case:
    """Rows sorted by group.

    Args:
      name: what it stands for.
      sizes: of the groups.
      width, out: features that go in and come out.
      beyond: rows behind the last group, of none; they hold NaN, infinities and 1e30.
    """

    name: str
    sizes: tuple[int, ...]
    width: int
    out: int
    beyond: int = 0

    @property
    def rows(self) -> int:
        return sum(self.sizes) + self.beyond


TESTED = (
    Case("ragged", (5, 17, 1, 9), 24, 40),
    Case("empty groups", (0, 11, 0, 6, 0), 16, 24),
    Case("all in one", (0, 29, 0), 8, 16),
    Case("rows of no group", (7, 0, 12), 24, 16, beyond=14),
    Case("nothing", (0, 0), 8, 8, beyond=10),
    Case("even", (8, 8, 8), 8, 16),
)
"""Small, with sizes that divide by nothing; for interpreted kernels."""

TIMED = (
    Case("16384 tokens, 2 of 8 experts", (4096,) * 8, 768, 3072),
    Case("16384 tokens, 2 of 64 experts", (512,) * 64, 768, 3072),
)


def arrays(case: Case, dtype: Any = jnp.float32, *, seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Rows, sizes, weights and a gradient by what comes out."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((case.rows, case.width), np.float32)
    lost = rows[sum(case.sizes) :]
    lost[...] = rng.choice([np.nan, np.inf, -np.inf, 1e30], lost.shape)
    weights = rng.standard_normal((len(case.sizes), case.width, case.out), np.float32)
    grad = rng.standard_normal((case.rows, case.out), np.float32)
    given = [jnp.asarray(a, dtype) for a in (rows, weights * case.width**-0.5, grad)]
    return given[0], jnp.asarray(case.sizes, jnp.int32), given[1], given[2]

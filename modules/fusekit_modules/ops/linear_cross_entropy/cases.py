"""Shapes that tests and benchmarks share."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from fusekit_modules.ops.linear_cross_entropy.given import Linear

Missing = Literal["none", "some", "all"]


@dataclass(frozen=True)
class Case:
    """Rows of features and a vocabulary.

    Args:
      name: what it stands for.
      rows, width, vocabulary: how many there are.
      bias: whether the map adds one.
      missing: which rows do not count; their features hold NaN, infinities and 1e30.
    """

    name: str
    rows: int
    width: int
    vocabulary: int
    bias: bool = True
    missing: Missing = "none"


TESTED = (
    Case("words", 24, 12, 40),
    Case("ragged, some missing", 17, 9, 53, missing="some"),
    Case("one chunk, no bias", 5, 8, 16, bias=False, missing="some"),
    Case("nothing counts", 6, 8, 30, missing="all"),
)
"""Small, with sizes that divide by nothing."""

TIMED = (
    Case("captions", 4096, 768, 32768),
    Case("masked words", 16384, 768, 30522),
    Case("language model", 8192, 2048, 128256, bias=False),
)


def arrays(case: Case, dtype: Any = jnp.float32, *, seed: int = 0) -> tuple[Linear, Any, Any]:
    """The map, the targets, and which rows count."""
    rng = np.random.default_rng(seed)
    share = {"none": 0.0, "some": 0.4, "all": 1.0}[case.missing]
    counts = rng.random(case.rows) >= share
    features = rng.standard_normal((case.rows, case.width), np.float32)
    features[~counts] = rng.choice([np.nan, np.inf, -np.inf, 1e30], features[~counts].shape)
    kernel = rng.standard_normal((case.width, case.vocabulary), np.float32)
    bias = rng.standard_normal(case.vocabulary, np.float32) if case.bias else None
    target = rng.integers(0, case.vocabulary, case.rows)
    given = Linear(
        jnp.asarray(features, dtype),
        jnp.asarray(kernel * case.width**-0.5, dtype),
        None if bias is None else jnp.asarray(bias, dtype),
    )
    return given, jnp.asarray(target, jnp.int32), jnp.asarray(counts)

"""Shapes that tests and benchmarks share."""

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from fusekit_modules.ops.contrastive.scores import Kind, Operands

Missing = Literal["none", "some", "all"]
INFO_NCE, SIGLIP, GRAM = Kind(), Kind(reduction="softplus"), Kind("volume")


@dataclass(frozen=True)
class Case:
    """Scores of rows and columns.

    Args:
      name: what it stands for.
      kind: of the scores.
      rows, columns, width: how many there are, and of how many features.
      products: how many a score is made of.
      missing: which rows and columns do not count.
      scale: of the scores.
    """

    name: str
    kind: Kind
    rows: int
    columns: int
    width: int
    products: int = 1
    missing: Missing = "none"
    scale: float = 1 / 0.07


TESTED = tuple(
    Case(f"{name}, {missing} missing", kind, rows, columns, width, products, missing)
    for missing in ("none", "some", "all")
    for name, kind, rows, columns, width, products in (
        ("info_nce", INFO_NCE, 40, 27, 24, 1),
        ("siglip", SIGLIP, 27, 27, 24, 1),
        ("gram", GRAM, 27, 33, 20, 2),
    )
)
"""Small, with sizes that divide by nothing; for interpreted kernels."""

TIMED = (
    Case("info_nce", INFO_NCE, 8192, 8192, 512),
    Case("info_nce", INFO_NCE, 32768, 32768, 512),
    Case("siglip", SIGLIP, 32768, 32768, 512, scale=10.0),
    Case("gram", GRAM, 8192, 8192, 512, products=3),
)


def arrays(case: Case, dtype: Any = jnp.float32, *, seed: int = 0) -> tuple[Operands, Any, Any]:
    """Unit vectors, and which rows and columns count; what does not is zero, as operands are."""
    rng = np.random.default_rng(seed)
    share = {"none": 0.0, "some": 0.3, "all": 1.0}[case.missing]
    rows, columns = (rng.random(size) >= share for size in (case.rows, case.columns))
    x = _unit(rng.standard_normal((case.rows, case.width), np.float32)) * rows[:, None]
    y = rng.standard_normal((case.products, case.columns, case.width), np.float32)
    volume = case.kind.score == "volume"
    y = np.linalg.qr(y.transpose(1, 2, 0))[0].transpose(2, 0, 1) if volume else _unit(y)
    given = Operands(
        jnp.asarray(x, dtype),
        jnp.asarray(y * columns[:, None], dtype),
        jnp.float32(case.scale),
        jnp.float32(-10 if case.kind.reduction == "softplus" else 0),
        jnp.asarray(np.sum(x * x, 1), jnp.float32) if volume else None,
        jnp.asarray(rng.random(case.columns) * columns, jnp.float32) if volume else None,
    )
    return given, jnp.asarray(rows), jnp.asarray(columns)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)

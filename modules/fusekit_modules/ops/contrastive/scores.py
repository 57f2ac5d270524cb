"""Scores of every row with every column, as functions of inner products, and their gradients.

A score is a pointwise function of m products x_i y_mj, of one number a row and one a column. So it
is computed tile by tile, in XLA and in kernels by the same few lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

LEAST = 1e-3
"""Volumes below this are replaced by a parabola that meets them there with the same slope."""

Reduction = Literal["logsumexp", "softplus"]


class Operands(NamedTuple):
    """What scores are computed from.

    Args:
      x: of the rows, `[b, d]`.
      y: of the columns, `[m, n, d]`.
      scale: what scores are multiplied by.
      bias: what is added before `softplus`.
      row: squared lengths `[b]`, of volumes.
      column: squared volumes `[n]`, of volumes.
    """

    x: Any
    y: Any
    scale: Any
    bias: Any
    row: Any = None
    column: Any = None

    @property
    def wide(self) -> Any:
        """The dtype in which products are summed."""
        return jnp.promote_types(self.x.dtype, jnp.float32)


class Positives(NamedTuple):
    """Which columns are right for which rows: those of the same number.

    Args:
      rows, columns: whole numbers `[b]` and `[n]`; those of what does not count are read nowhere.
      row_share, column_share: what each right score of a row, and of a column, counts.
    """

    rows: Any
    columns: Any
    row_share: Any
    column_share: Any

    def counting(self, rows: Array, columns: Array) -> "Positives":
        """Such that nothing is right for what does not count, nor for what is numbered 0."""
        mine = jnp.where(rows, self.rows + 1, -1)
        theirs = jnp.where(columns, self.columns + 1, -2)
        return self._replace(rows=mine, columns=theirs)


@dataclass(frozen=True)
class Kind:
    """Which score, and what is made of the scores of a row.

    Args:
      score: `dot`, scale x y, before `softplus` + bias; or `volume`, -scale V, where V squared is
        column (row - sum_m (x y_m)^2): the squared height of x above orthonormal y, times the
        squared volume of what these span.
      reduction: `logsumexp`, by row and by column; or `softplus`, its sum by row.
    """

    score: Literal["dot", "volume"] = "dot"
    reduction: Reduction = "logsumexp"

    @property
    def name(self) -> str:
        """Of the operation."""
        if self.score == "volume":
            return "contrast of volumes"
        return "contrast" if self.reduction == "logsumexp" else "contrast of pairs"

    @property
    def precision(self) -> str | None:
        """Of products: heights are differences of squares, and lose digits."""
        return "highest" if self.score == "volume" else None

    def of(self, products: Sequence[Array], scale: Any, bias: Any, row: Any, column: Any) -> Array:
        """Scores `[b, n]` from products `[b, n]`, with `row [b, 1]` and `column [1, n]`."""
        if self.score == "dot":
            scaled = scale * products[0]
            return scaled + bias if self.reduction == "softplus" else scaled
        return -scale * root(_square(products, row, column))

    def slopes(
        self, grad: Array, products: Sequence[Array], scale: Any, row: Any, column: Any
    ) -> tuple[list[Array], Array, Any, Any]:
        """From the gradient by scores, those by each product, by the scale, by `row` and by
        `column`, all `[b, n]`, to be summed over what they do not vary with."""
        if self.score == "dot":
            return [scale * grad], grad * products[0], None, None
        square = _square(products, row, column)
        inner = -scale * grad * _root_slope(square)
        height = inner * column
        by_products = [-2 * product * height for product in products]
        return by_products, -grad * root(square), height, inner * _height(products, row)


def dot(
    a: Float[Array, "b d"], b: Float[Array, "d n"], precision: str | None = None
) -> Float[Array, "b n"]:
    """A product of matrices summed in float32, or float64 if they are."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot(a, b, precision=precision, preferred_element_type=wide)


def _height(products: Sequence[Array], row: Any) -> Array:
    rest = row
    for product in products:
        rest = rest - product * product
    return jnp.maximum(rest, 0)


def _square(products: Sequence[Array], row: Any, column: Any) -> Array:
    return column * _height(products, row)


def root(square: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The square root, below `LEAST` a parabola: there the first term is half of it, and the second
    no less than half of `LEAST`."""
    rough = square * _inverse(square)
    return 0.5 * (rough + jnp.maximum(rough, LEAST))


def _root_slope(square: Array) -> Array:
    return 0.5 * _inverse(square)


def _inverse(square: Array) -> Array:
    """1 over the root, `1 / LEAST` at most."""
    return lax.rsqrt(jnp.maximum(square, LEAST**2))

"""Gradients of a batch, whole or in parts: memory of one part, and the same numbers.

A loss is a ratio T / W of sums over rows, so a mean of the parts' losses would be another one
wherever parts differ in W. First W is summed over all parts, then the gradients of

    sum over losses l and parts m of  w_l T_lm / W_l

in float32. Where a weight depends on what is trained, T is summed first too, and a part gives the
gradient of `w_l (T_lm - W_lm T_l / W_l) / W_l`: the quotient rule, exactly. Of the first pass only
what these sums need is run: as a rule, masks.

Part m of N is the rows m, N + m, 2 N + m, ...: every device gives its own rows to each part and
none are moved.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit.errors import LayoutError
from fusekit.jaxprs import Sliced
from fusekit.layout import Layout
from fusekit.objective import ratio

Scalar = Float[Array, ""]
Part = Callable[[Any, Any, Array], tuple[dict[Any, tuple[Scalar, Scalar]], Any]]
"""(what is trained, rows, random key) -> the sums of each loss, and what else there is."""
Factors = Mapping[Any, float]
"""By loss its factor in the objective; other losses are only measured."""


def whole(
    part: Part, trained: Any, rows: Any, key: Array, factors: Factors
) -> tuple[Scalar, dict[Any, Scalar], Any, Any]:
    """The objective of a batch at once, each loss, what else `part` gives, and the gradients."""

    def objective(trained: Any) -> tuple[Scalar, Any]:
        sums, other = part(trained, rows, key)
        each = {name: ratio(*pair) for name, pair in sums.items()}
        return _weighted(each, factors), (each, other)

    (value, (each, other)), grads = jax.value_and_grad(objective, has_aux=True)(trained)
    return value, each, other, grads


def accumulated(
    part: Part, trained: Any, rows: Any, key: Array, factors: Factors, places: Any = None
) -> tuple[Scalar, dict[Any, Scalar], Any, Any]:
    """The same of a batch in parts, one after another.

    Args:
      part: what one part gives; what it gives besides sums may not depend on the rows.
      trained: what to differentiate by; `None` leaves are left out.
      rows: as `parted` gives them.
      key: of which each part has its own: the number of the part is folded in.
      factors: of the losses.
      places: where the gradients live, in the structure of `trained`; `None`: anywhere.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    parts = rows, jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(count))
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    sliced = Sliced(part, trained, *first)
    moving = {n for n in factors if sliced.depends(lambda out, n=n: out[0][n][1], on=0)}
    before = sliced.only(
        lambda out: ({n: w for n, (_, w) in out[0].items()}, {n: out[0][n][0] for n in moving})
    )

    def early(rows: Any, key: Array) -> tuple[dict[Any, Scalar], dict[Any, Scalar]]:
        return before(trained, rows, key)

    start = jax.tree.map(_zeros, jax.eval_shape(early, *first))
    weights, totals = _added(early, start, parts)

    def objective(trained: Any, rows: Any, key: Array) -> tuple[Scalar, dict[Any, Scalar]]:
        sums, _ = part(trained, rows, key)
        found = {name: total for name, (total, _) in sums.items()}
        net = dict(found)
        for name in moving:
            net[name] = net[name] - sums[name][1] * ratio(totals[name], weights[name])
        each = {name: ratio(net[name], weights[name]) for name in factors}
        return _weighted(each, factors), found

    def gradient(rows: Any, key: Array) -> tuple[Any, dict[Any, Scalar]]:
        return jax.grad(objective, has_aux=True)(trained, rows, key)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), trained)
    if places is not None:
        zeros = jax.tree.map(jax.lax.with_sharding_constraint, zeros, places)
    start = zeros, jax.tree.map(jnp.zeros_like, weights)
    grads, sums = _added(gradient, start, parts)
    each = {name: ratio(sums[name], weight) for name, weight in weights.items()}
    other = sliced.only(lambda out: out[1])(trained, *first)
    grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, trained)
    return _weighted(each, factors), each, other, grads


def parted(batch: Any, parts: int, layout: Layout) -> Any:
    """Arrays `[b, ...]` as `[parts, b / parts, ...]`. Raises `LayoutError` if the rows do not
    divide."""

    def one(leaf: Array) -> Array:
        check_rows(leaf.shape[0], parts, layout.rows())
        split = jnp.reshape(leaf, (leaf.shape[0] // parts, parts, *leaf.shape[1:]))
        split = jnp.moveaxis(split, 1, 0)
        if layout.size == 1:
            return split
        place = layout.of_stream(split.shape, (None, "batch") + (None,) * (split.ndim - 2))
        return jax.lax.with_sharding_constraint(split, place)

    return jax.tree.map(one, batch)


def check_rows(rows: int, parts: int, over: int) -> None:
    """Raises `LayoutError` if so many rows do not divide into `parts` microbatches, each over
    `over` parts of the mesh."""
    if parts > 1 and rows % (parts * over):
        each = f", each over {over} parts of the mesh" if over > 1 else ""
        raise LayoutError(
            f"a batch of {rows} does not divide into {parts} microbatches{each}: "
            f"a multiple of {parts * over} is due"
        )


def _weighted(each: Mapping[Any, Scalar], factors: Factors) -> Scalar:
    """The objective, from its losses."""
    return sum((factor * each[name] for name, factor in factors.items()), jnp.zeros(()))


def _added(function: Callable[[Any, Array], Any], start: Any, parts: Any) -> Any:
    """The sum of what a function gives of each part, in the dtypes of `start`."""

    def body(sums: Any, given: tuple[Any, Array]) -> tuple[Any, None]:
        return jax.tree.map(lambda s, new: s + new.astype(s.dtype), sums, function(*given)), None

    return jax.lax.scan(body, start, parts)[0]


def _zeros(shape: Any) -> Array:
    return jnp.zeros(shape.shape, shape.dtype)

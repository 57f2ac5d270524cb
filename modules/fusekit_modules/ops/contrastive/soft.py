"""Contrast with targets that a teacher shares out over all columns, of which none is kept."""

from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Shaped

from fusekit_modules.ops.contrastive.given import How
from fusekit_modules.ops.contrastive.op import info_nce
from fusekit_modules.ops.contrastive.reduce import axes_of
from fusekit_modules.ops.contrastive.xla import chunk_of


def soft_info_nce(
    x: Float[Array, "b d"],
    y: Float[Array, "n d"],
    teacher: Float[Array, "b d"],
    share: float,
    scale: Float[Array, ""],
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    *,
    keys: Shaped[Array, "b"] | None = None,
    column_keys: Shaped[Array, "n"] | None = None,
    **options: Any,
) -> Float[Array, "b"]:
    """Cross-entropies by row of telling its columns, where the target is (1 - a) times that of
    `info_nce` plus a times the softmax of the teacher's own scores (Li et al. 2021, ALBEF,
    equation 6; a is `share`).

    A softmax sums to one, so the teacher's part is that of `info_nce` and a s x_i (r_i - m_i): r_i
    is the mean of the right columns and m_i that of all columns by the teacher's shares. Both are
    vectors; the scores behind m_i are made a chunk of rows at a time, and once, as nothing of the
    teacher has a gradient. A row whose key is NaN has no right column: only the teacher tells it.

    Args:
      x, scale, rows, columns, options: as of `info_nce`.
      y: of columns; row i and column i are of one sample. No gradient goes there.
      teacher: of the same rows, which is compared with the columns as x is.
      share: of the teacher in the target.
      keys, column_keys: positives are those of one key; without, row i and column i.
    """
    wide = jnp.promote_types(x.dtype, jnp.float32)
    y = lax.stop_gradient(y)
    values = jnp.where(columns[:, None], y, 0).astype(wide)
    names: dict[str, Any] = {}
    right, keyless = values[: len(x)], None
    if keys is not None:
        own, every, keyless = _numbered(keys, keys if column_keys is None else column_keys)
        names = {"keys": own, "column_keys": every}
        right = _means(values, own, every, columns)
    hard = info_nce(x, y, scale, rows, columns, **names, **options)[0]
    if keyless is not None:
        hard = jnp.where(keyless, share, 1) * hard
    teacher = jnp.where(rows[:, None], teacher, 0).astype(wide)
    teacher, fixed = lax.stop_gradient(teacher), lax.stop_gradient(scale.astype(wide))
    told = _told(How.of(**options), teacher, fixed, values, columns)
    rest = scale * jnp.sum(jnp.where(rows[:, None], x, 0).astype(wide) * (right - told), axis=1)
    return jnp.where(rows, hard + share * rest, 0)


def _numbered(
    keys: Shaped[Array, "b"], column_keys: Shaped[Array, "n"]
) -> tuple[Int[Array, "b"], Int[Array, "n"], Bool[Array, "b"]]:
    """Whole numbers in place of keys, and which rows have none: such a row has that of its own
    column alone."""
    every = jnp.concatenate([keys, column_keys])
    count, size = len(keys), len(every)
    groups = jnp.searchsorted(jnp.sort(every), every, method="sort").astype(jnp.int32)
    own = size + jnp.concatenate([jnp.arange(count), jnp.arange(len(column_keys))])
    groups = jnp.where(every == every, groups, own.astype(jnp.int32))
    return groups[:count], groups[count:], keys != keys


def _means(
    values: Float[Array, "n d"],
    own: Int[Array, "b"],
    every: Int[Array, "n"],
    columns: Bool[Array, "n"],
) -> Float[Array, "b d"]:
    """By row, the mean of the columns that count and have its number; others are zeros."""
    size = len(own) + 2 * len(every)
    sums = jax.ops.segment_sum(values, every, size)
    counts = jax.ops.segment_sum(columns.astype(values.dtype), every, size)
    return sums[own] / jnp.maximum(counts, 1)[own, None]


def _told(how: How, teacher: Array, scale: Array, values: Array, columns: Array) -> Array:
    """By row, the mean of the columns by the teacher's shares; over a mesh each device its rows."""
    axes, given = axes_of(how.layout), (teacher, scale, values, columns)
    if not axes or len(teacher) % prod(how.layout.mesh.shape[axis] for axis in axes):
        return _mean_told(*given)
    cut, mesh = P(axes), how.layout.mesh
    specs: Any = {"in_specs": (cut, P(), P(), P()), "out_specs": cut, "check_vma": False}
    return jax.shard_map(_mean_told, mesh=mesh, **specs)(*given)


def _mean_told(teacher: Array, scale: Array, values: Array, columns: Array) -> Array:
    """A chunk of rows at a time."""

    def some(teacher: Array) -> Array:
        scores = jnp.where(columns, scale * (teacher @ values.T), jnp.finfo(values.dtype).min)
        return jax.nn.softmax(scores, axis=1) @ values

    size = chunk_of(len(teacher), len(values))
    if size >= len(teacher):
        return some(teacher)
    short = -len(teacher) % size
    parts = jnp.pad(teacher, ((0, short), (0, 0))).reshape(-1, size, teacher.shape[1])
    return lax.map(some, parts).reshape(-1, values.shape[1])[: len(teacher)]

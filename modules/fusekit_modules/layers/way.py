"""How the portable attention is best computed where it runs."""

from math import prod
from typing import NamedTuple

from jaxtyping import Array, Float

from fusekit.context import Context
from fusekit.layout import Layout
from fusekit_modules.ops.rule import target_of

LANES = 128
"""Numbers side by side in a TPU's registers and units of products."""
HELD = 20 * 2**20
"""Bytes of scores that a TPU keeps on the chip beside what else a pass needs: of 128 MiB on a v5e,
two examples of 8 heads and 513 tokens stayed there, and the whole of 16 did not."""


class Way(NamedTuple):
    """How attention is computed; all ways give the same up to rounding.

    Args:
      groups: examples are taken in so many groups, one after another.
      parts: into which a mesh cuts the examples; each group has its share of each.
      product: sums over keys come out of the product with the values, as one column more.
    """

    groups: int = 1
    parts: int = 1
    product: bool = False


def way_of(context: Context, query: Float[Array, "b q h k"], keys: int) -> Way:
    """The way of queries that read so many keys: on TPUs groups whose scores stay on the chip, and
    sums by product where heads do not fill the lanes anyway; elsewhere all at once."""
    if target_of(context).platform != "tpu":
        return Way()
    parts, heads = _of_mesh(context.layout, query)
    rows = query.shape[0] // parts
    most = max(HELD // max(4 * heads * query.shape[1] * keys, 1), 1)
    sizes = (size for size in range(1, rows + 1) if rows % size == 0 and size <= most)
    group = max(sizes, default=1)
    return Way(max(rows // group, 1), parts, product=query.shape[-1] % LANES != 0)


def _of_mesh(layout: Layout | None, query: Array) -> tuple[int, int]:
    """Into how many parts examples are cut, and the heads of one device."""
    b, _, h, _ = query.shape
    if layout is None:
        return 1, h
    (axes,) = layout.of_param((h,), ("heads",)).spec
    names = (axes,) if isinstance(axes, str) else axes or ()
    cut = prod(layout.mesh.shape[axis] for axis in names)
    return (layout.rows() if b % layout.rows() == 0 else 1), h // cut

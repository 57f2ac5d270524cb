"""Similarities of token sequences, for metrics of retrieval."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fusekit_modules.metrics._scored import Floats

BLOCK = 256
DECIMALS = 10
"""Similarities that differ by less are equal: rounding must not order rows."""


class Tokens(NamedTuple):
    """Sequences `[m, t, d]` and which tokens are valid, `[m, t]`: one a row at least. What is not
    valid is zeros."""

    values: Floats
    mask: Bool[np.ndarray, "m t"]

    def part(self, rows: slice) -> "Tokens":
        return Tokens(self.values[rows], self.mask[rows])


def maxsim(queries: Tokens, items: Tokens, *, mean: bool) -> Float[np.ndarray, "m n"]:
    """The sum or mean over a query's tokens of the largest inner product with an item's (ColBERT,
    Khattab and Zaharia 2020, eq. 3)."""
    count, length, width = items.values.shape
    flat, absent = items.values.reshape(-1, width).T, ~items.mask
    found = np.empty((len(queries.values), count))
    for row, (values, mask) in enumerate(zip(*queries, strict=True)):
        similar = (values[mask] @ flat).reshape(-1, count, length)
        nearest = np.where(absent, -np.inf, similar).max(axis=2)
        found[row] = nearest.mean(axis=0) if mean else nearest.sum(axis=0)
    return found


def all_pairs(
    queries: Tokens, items: Tokens, *, mean: bool, back: bool
) -> Iterator[tuple[slice, Float[np.ndarray, "k n"]]]:
    """`maxsim` of all queries and all items, by some rows at a time: queries, or with `back` items.
    Blocks bound the memory."""
    rows, columns = (items, queries) if back else (queries, items)
    for start in range(0, len(rows.values), BLOCK):
        part = slice(start, start + BLOCK)
        table = np.empty((len(rows.values[part]), len(columns.values)))
        for at in range(0, len(columns.values), BLOCK):
            across = slice(at, at + BLOCK)
            pair = rows.part(part), columns.part(across)
            found = maxsim(*pair[:: -1 if back else 1], mean=mean)
            table[:, across] = found.T if back else found
        yield part, np.round(table, DECIMALS)

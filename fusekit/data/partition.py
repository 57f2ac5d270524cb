"""Divides rows into parts of given shares, by class and by group where asked."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def partition(
    count: int,
    shares: list[float],
    rng: np.random.Generator,
    *,
    classes: NDArray[Any] | None = None,
    groups: NDArray[Any] | None = None,
) -> Ints:
    """The part of each row, `[count]`.

    Args:
      count: how many rows.
      shares: one fraction a part; they add up to 1.
      rng: decides which rows go where.
      classes: `[count]`; every part gets its share of each class, to within one row.
      groups: `[count]`; rows of one group stay together. Shares then hold as well as the groups
        allow: large groups first, each to where it brings the parts closest to their shares.
    """
    code = np.zeros(count, np.int64)
    if classes is not None:
        code = np.unique(classes, return_inverse=True)[1].reshape(-1).astype(np.int64)
    if groups is None:
        return _by_class(code, np.asarray(shares), rng)
    return _by_group(code, groups, np.asarray(shares), rng)


def _by_class(code: Ints, shares: NDArray[np.float64], rng: np.random.Generator) -> Ints:
    part = np.empty(len(code), np.int64)
    debt = np.zeros(len(shares))
    for value in range(int(code.max(initial=-1)) + 1):
        rows = rng.permutation(np.flatnonzero(code == value))
        want = shares * len(rows) + debt
        counts = whole(want, len(rows))
        debt = want - counts
        part[rows] = np.repeat(np.arange(len(shares)), counts)
    return part


def whole(want: NDArray[np.float64], total: int) -> Ints:
    """Whole numbers close to `want` that add up to `total`, by largest remainder."""
    counts = np.maximum(np.floor(want + 1e-9), 0).astype(np.int64)
    while counts.sum() < total:
        counts[np.argmax(want - counts)] += 1
    while counts.sum() > total:
        counts[np.argmin(np.where(counts > 0, want - counts, np.inf))] -= 1
    return counts


def _by_group(
    code: Ints, groups: NDArray[Any], shares: NDArray[np.float64], rng: np.random.Generator
) -> Ints:
    names, member = np.unique(groups, return_inverse=True)
    member = member.reshape(-1)
    table = np.zeros((len(names), int(code.max(initial=0)) + 1))
    np.add.at(table, (member, code), 1)
    order = rng.permutation(len(names))
    order = order[np.argsort(-table.sum(1)[order], kind="stable")]
    lacking = shares[:, None] * table.sum(0)
    chosen = np.empty(len(names), np.int64)
    for group in order:
        # (lacking - g)^2 - lacking^2 is least where 2 lacking . g is most; g . g is common
        chosen[group] = best = int(np.argmax(lacking @ table[group]))
        lacking[best] -= table[group]
    return chosen[member]

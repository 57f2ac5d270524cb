"""What metrics of retrieval share: their fields, and the rank of what is right."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import MetricSpec, Signatures
from fusekit.config.reference import Ref, Refs
from fusekit_modules.layers.expect import (
    expect_count,
    expect_same,
    expect_sequence,
    expect_vector,
)
from fusekit_modules.losses._positives import check_positives
from fusekit_modules.metrics._maxsim import DECIMALS, Tokens, all_pairs
from fusekit_modules.metrics._scored import Columns, Floats

KEYS = ("positives", "within")
BLOCK = 1024
ELEMENTS = 1 << 22
"""Similarities that there are at once: 32 MiB of them, whatever the number of rows."""

Blocks = Iterator[tuple[slice, Float[np.ndarray, "k n"]]]
"""Similarities of some rows at a time with all others."""


class RetrievalSpec(MetricSpec):
    """A metric of how a row's second input ranks for its first among the second inputs of all rows
    that count. Those that are as similar as the right one are put before it.

    Two token sequences are compared by MaxSim (ColBERT, Khattab and Zaharia 2020, eq. 3): the sum
    or mean over the first's valid tokens of the largest similarity to a valid token of the second,
    whichever searches. A row in which one of them has no valid token does not count.

    With `positives` any row of the same key is right, and the first of them counts. With `within`
    only rows of the same key are searched. It is NaN where no row counts, or where a row that
    counts holds what is not finite.
    """

    inputs: Refs = Field(
        description="what searches, and what is searched: vectors or token sequences of one width"
    )
    direction: Literal["first", "both"] = Field(
        "first", description="both: the mean with the second input searching among the first"
    )
    similarity: Literal["cosine", "dot"] = Field("cosine", description="how vectors are compared")
    reduce: Literal["sum", "mean"] = Field(
        "sum", description="over the first's tokens, where inputs are sequences"
    )
    positives: Ref | None = Field(None, description="a key: all rows of it are right")
    within: Ref | None = Field(None, description="a key: only rows of it are searched")

    @classmethod
    def examples(cls) -> list[dict]:
        pair = {"inputs": ["m0", "m1"]}
        return [pair, {**pair, "direction": "both", "similarity": "dot"}]

    def check(self, inputs: Signatures) -> None:
        """Two vectors or two sequences of one width, and keys. Raises `WiringError` otherwise."""
        given = {role: signature for role, signature in inputs.items() if role not in KEYS}
        expect_count(given, least=2, most=2)
        sequences = all(signature.kind == "sequence" for signature in given.values())
        for role, signature in given.items():
            (expect_sequence if sequences else expect_vector)(signature, role)
        expect_same(given, "embed", hint="projections to one width")
        for role in KEYS:
            check_positives(inputs, role)

    def compute(self, columns: Columns, rows: Bool[np.ndarray, "n"]) -> float:
        masks = [token_mask(columns, role) for role in roles_of(self.inputs)]
        rows = np.asarray(rows, bool) & masks[0].any(axis=1) & masks[1].any(axis=1)
        keys = {role: columns[role][rows] for role in KEYS if role in columns}
        found = vectors_of(columns, rows, self.inputs, self.similarity)
        if found is None:
            return float("nan")
        backs = [False, True][: 1 + (self.direction == "both")]
        if found[0].ndim == 2:
            tables = [similarities(*found[:: -1 if back else 1]) for back in backs]
        else:
            pair = [Tokens(v, mask[rows]) for v, mask in zip(found, masks, strict=True)]
            mean = self.reduce == "mean"
            tables = [all_pairs(*pair, mean=mean, back=back) for back in backs]
        return self.score([ranks(table, len(found[0]), **keys) for table in tables])

    def score(self, ranks: list[NDArray[np.int64]]) -> float:
        """Of the ranks `[m]`, from 1, of each direction."""
        raise NotImplementedError


def roles_of(inputs: Refs) -> list[str]:
    """The roles of the inputs in order. (Columns come in any.)"""
    return [*inputs] if isinstance(inputs, Mapping) else [*map(str, inputs)]


def token_mask(columns: Columns, role: str) -> Bool[np.ndarray, "n t"]:
    """Which tokens of a sequence are valid; a vector is one token."""
    values = columns[role]
    whole = np.ones(values.shape[:2] if values.ndim > 2 else (len(values), 1), bool)
    return np.asarray(columns.get(f"{role}.mask", whole), bool)


def vectors_of(
    columns: Columns, rows: NDArray[np.bool_], inputs: Refs, similarity: str
) -> tuple[Floats, Floats] | None:
    """The two inputs in the rows that count, of length one for `cosine`; tokens that are not valid
    are zeros. `None` if no row counts, or not all is finite."""
    found: list[Floats] = []
    for role in roles_of(inputs):
        values = np.asarray(columns[role][rows], np.float64)
        if values.ndim > 2:
            values = np.where(token_mask(columns, role)[rows][..., None], values, 0.0)
        found.append(values)
    if not rows.any() or not all(np.isfinite(values).all() for values in found):
        return None
    first, second = found
    return (normalised(first), normalised(second)) if similarity == "cosine" else (first, second)


def normalised(values: Float[np.ndarray, "*m d"]) -> Float[np.ndarray, "*m d"]:
    """Vectors of length one; zeros stay zeros."""
    largest = np.abs(values).max(axis=-1, keepdims=True)
    scaled = values / np.where(largest > 0, largest, 1)
    length = np.sqrt((scaled**2).sum(axis=-1, keepdims=True))
    return scaled / np.where(length > 0, length, 1)


def similarities(queries: Float[np.ndarray, "m d"], others: Float[np.ndarray, "n d"]) -> Blocks:
    """Inner products, some queries at a time."""
    size = max(1, min(BLOCK, ELEMENTS // max(len(others), 1)))
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        yield part, np.round(queries[part] @ others.T, DECIMALS)


def ranks(
    tables: Blocks,
    count: int,
    positives: NDArray | None = None,
    within: NDArray | None = None,
) -> NDArray[np.int64]:
    """The rank of what is right for each of so many queries: one more than how many wrong ones are
    as similar or more."""
    own = np.arange(count) if positives is None else positives
    found = np.empty(count, np.int64)
    for part, found_here in tables:
        right = own[part, None] == own
        wrong = ~right
        if within is not None:
            same = within[part, None] == within
            right, wrong = right & same, wrong & same
        best = np.where(right, found_here, -np.inf).max(axis=1, keepdims=True)
        found[part] = 1 + (wrong & (found_here >= best)).sum(axis=1)
    return found

"""What metrics of retrieval share: their fields, and the rank of what is right."""

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import MetricSpec, Signatures
from fusekit.config.reference import Ref, Refs
from fusekit_modules.layers.expect import expect_count, expect_same, expect_vector
from fusekit_modules.losses._positives import check_positives
from fusekit_modules.metrics._scored import Columns, Floats

KEYS = ("positives", "within")
BLOCK = 1024
DECIMALS = 10
"""Similarities that differ by less are equal: rounding must not order rows."""


class RetrievalSpec(MetricSpec):
    """A metric of how a row's second input ranks for its first among the second inputs of all rows
    that count. Those that are as similar as the right one are put before it.

    With `positives` any row of the same key is right, and the first of them counts. With `within`
    only rows of the same key are searched. It is NaN where no row counts, or where a row that
    counts holds what is not finite.
    """

    inputs: Refs = Field(description="what searches, and what is searched: vectors of one width")
    direction: Literal["first", "both"] = Field(
        "first", description="both: the mean with the second input searching among the first"
    )
    similarity: Literal["cosine", "dot"] = Field("cosine", description="how vectors are compared")
    positives: Ref | None = Field(None, description="a key: all rows of it are right")
    within: Ref | None = Field(None, description="a key: only rows of it are searched")

    @classmethod
    def examples(cls) -> list[dict]:
        pair = {"inputs": ["m0", "m1"]}
        return [pair, {**pair, "direction": "both", "similarity": "dot"}]

    def check(self, inputs: Signatures) -> None:
        """Two vectors of one width, and keys. Raises `WiringError` otherwise."""
        vectors = {role: given for role, given in inputs.items() if role not in KEYS}
        expect_count(vectors, least=2, most=2)
        for role, given in vectors.items():
            expect_vector(given, role)
        expect_same(vectors, "embed", hint="projections to one width")
        for role in KEYS:
            check_positives(inputs, role)

    def compute(self, columns: Columns, rows: Bool[np.ndarray, "n"]) -> float:
        rows = np.asarray(rows, bool)
        keys = {role: columns[role][rows] for role in KEYS if role in columns}
        found = vectors_of(columns, rows, self.inputs, self.similarity)
        if found is None:
            return float("nan")
        first, second = found
        pairs = [(first, second), (second, first)][: 1 + (self.direction == "both")]
        return self.score([ranks(*pair, **keys) for pair in pairs])

    def score(self, ranks: list[NDArray[np.int64]]) -> float:
        """Of the ranks `[m]`, from 1, of each direction."""
        raise NotImplementedError


def vectors_of(
    columns: Columns, rows: NDArray[np.bool_], inputs: Refs, similarity: str
) -> tuple[Floats, Floats] | None:
    """The two inputs in the rows that count, of length one for `cosine`; `None` if there are none,
    or not all are finite. (Columns come in any order.)"""
    one, other = inputs if isinstance(inputs, Mapping) else map(str, inputs)
    first, second = (np.asarray(columns[role][rows], np.float64) for role in (one, other))
    if not rows.any() or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    return (normalised(first), normalised(second)) if similarity == "cosine" else (first, second)


def normalised(values: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m d"]:
    """Vectors of length one; zeros stay zeros."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    scaled = values / np.where(largest > 0, largest, 1)
    length = np.sqrt((scaled**2).sum(axis=1, keepdims=True))
    return scaled / np.where(length > 0, length, 1)


def similarities(
    queries: Float[np.ndarray, "m d"], others: Float[np.ndarray, "k d"]
) -> Iterator[tuple[slice, Float[np.ndarray, "n k"]]]:
    """Inner products, some queries at a time."""
    for start in range(0, len(queries), BLOCK):
        part = slice(start, start + BLOCK)
        yield part, np.round(queries[part] @ others.T, DECIMALS)


def ranks(
    queries: Float[np.ndarray, "m d"],
    others: Float[np.ndarray, "m d"],
    positives: NDArray | None = None,
    within: NDArray | None = None,
) -> NDArray[np.int64]:
    """The rank of what is right for each query: one more than how many wrong ones are as similar
    or more."""
    own = np.arange(len(queries)) if positives is None else positives
    found = np.empty(len(queries), np.int64)
    for part, found_here in similarities(queries, others):
        right = own[part, None] == own
        wrong = ~right
        if within is not None:
            same = within[part, None] == within
            right, wrong = right & same, wrong & same
        best = np.where(right, found_here, -np.inf).max(axis=1, keepdims=True)
        found[part] = 1 + (wrong & (found_here >= best)).sum(axis=1)
    return found

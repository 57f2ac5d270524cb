"""Counts, layers and shapes as text."""

import pytest

from fusekit.config.reference import INPUT
from fusekit.report import numbers
from fusekit.stream import Signature, sequence, vector


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (106, "106"),
        (9999, "9 999"),
        (10_000, "10.0 k"),
        (12_345, "12.3 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (1_194_999, "1.19 M"),
        (19_500_000_000, "19.5 G"),
        (8.94e12, "8.94 T"),
    ],
)
def test_short(number: float, text: str) -> None:
    assert numbers.short(number) == text


@pytest.mark.parametrize(
    ("indices", "text"),
    [
        ([3, 4, 5], "3..5"),
        ([0, 4, 8], "0..8/4"),
        ([2, 3], "2, 3"),
        ([7], "7"),
        ([INPUT], "input"),
        ([0, 1, 5], "0, 1, 5"),
    ],
)
def test_layers(indices: list[int], text: str) -> None:
    assert numbers.layers(indices) == text


def test_signatures() -> None:
    assert numbers.signature(vector(8, optional=True)) == "vector 8 (optional)"
    assert numbers.signature(sequence(5, 8, padded=True)) == "sequence 5×8 (padded)"
    assert numbers.signature(Signature((), dtype="int", classes=3)) == "one of 3"
    assert numbers.signature(Signature(())) == "one number"


def test_plural() -> None:
    assert numbers.plural(1, "modality") == "1 modality"
    assert numbers.plural(2, "modality") == "2 modalities"
    assert numbers.plural(0, "layer") == "0 layers"

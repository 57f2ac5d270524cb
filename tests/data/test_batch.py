import numpy as np
import pytest

from fusekit.data.batch import Collator
from fusekit.errors import DataError


def where(row: int) -> str:
    return f"row {row} of source s"


def test_absent_rows_are_zero_and_marked(fakes):
    collate = Collator("x", fakes.Vector(width=2, optional=True))
    stream = collate([None, [1.0, 2.0], None, [3.0, 4.0]], where)
    np.testing.assert_array_equal(stream.values, [[0, 0], [1, 2], [0, 0], [3, 4]])
    assert stream.presence.tolist() == [False, True, False, True]
    assert stream.mask is None


def test_mask_and_presence(fakes):
    collate = Collator("t", fakes.Text(length=3, optional=True))
    stream = collate([[5], None, [6, 7, 8]], where)
    np.testing.assert_array_equal(stream.values, [[5, 0, 0], [0, 0, 0], [6, 7, 8]])
    np.testing.assert_array_equal(stream.mask, [[1, 0, 0], [0, 0, 0], [1, 1, 1]])
    assert stream.presence.tolist() == [True, False, True]
    assert [span.label for span in stream.spans] == ["text"]


def test_nothing_present_keeps_shape_and_dtype(fakes):
    for spec in (
        fakes.Text(optional=True),
        fakes.Vector(optional=True),
        fakes.Label(optional=True),
    ):
        collate = Collator("m", spec)
        row = {"text": [1], "vector": [1, 2, 3], "label": 2}[spec.type]
        full, empty = collate([row, row], where), collate([None, None], where)
        assert empty.values.dtype == full.values.dtype
        assert empty.values.shape == full.values.shape
        assert (empty.mask is None) == (full.mask is None)
        assert not np.any(empty.values)
        assert not empty.presence.any()


def test_required_has_no_presence(fakes):
    stream = Collator("x", fakes.Vector(width=1))([[1.0]], where)
    assert stream.presence is None


def test_required_but_absent(fakes):
    with pytest.raises(DataError) as error:
        Collator("x", fakes.Vector())([[1, 2, 3], None], where)
    assert str(error.value) == (
        "row 1 of source s has no x, which is not optional:"
        " declare modalities.x.optional, or leave such rows out"
    )


def test_a_row_that_does_not_fit_is_named(fakes):
    with pytest.raises(DataError) as error:
        Collator("x", fakes.Vector(optional=True))([None, [1, 2, 3], [1, 2]], where)
    assert str(error.value) == ("row 2 of source s, modality x does not fit: found shape (2,)")

"""How a vocabulary is cut into chunks."""

import pytest

from fusekit_modules.ops.linear_cross_entropy import xla


@pytest.mark.parametrize(
    ("rows", "vocabulary"), [(4096, 32768), (4096, 50257), (1, 8192), (1 << 20, 30522), (64, 100)]
)
def test_chunks_make_up_the_vocabulary(rows, vocabulary):
    size, whole = xla.chunks(rows, vocabulary)
    last = vocabulary - size * whole
    assert 0 < last <= size
    assert size == vocabulary or size % xla.LANES == 0
    assert size <= max(xla.ELEMENTS // rows, xla.LEAST) + xla.LANES

"""Components are compiled often and run little."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quickly(compiled_quickly):
    """Nearly all the time here goes into compiling."""

"""What hosts are compared with."""

import pytest

from tests.hosts import measure


@pytest.fixture(scope="session")
def alone():
    """Steps and an evaluation on one device of one host."""
    return measure.measured()[0]

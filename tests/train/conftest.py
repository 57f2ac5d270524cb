"""Fixtures of the training tests: one small experiment with all that resuming depends on."""

import pytest

from tests.train import tiny


@pytest.fixture(scope="session")
def program():
    """Compiled once; it spans eight steps."""
    return tiny.program()


@pytest.fixture(scope="session")
def turns():
    """Two replicas that run in turn."""
    return tiny.program(replicas=2, mode="loop")


@pytest.fixture
def pipeline():
    opened = tiny.pipeline("train")
    yield opened
    opened.close()

"""Which cases of a test run every time."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def often(values: Iterable[Any], kept: Container[Any]) -> list[Any]:
    """Values as parameters of a test; all but those kept run with the slow tests alone."""
    return [pytest.param(v, marks=[] if v in kept else pytest.mark.slow) for v in values]

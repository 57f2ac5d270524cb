"""Summaries of the configs under tests/cli."""

from pathlib import Path

import pytest

from fusekit.config import load
from fusekit.graph import Graph, resolve

CONFIGS = Path(__file__).parents[1] / "cli"


def graph_of(name: str, *sets: str) -> Graph:
    return resolve(load(CONFIGS / f"{name}.yaml", sets).experiment)


@pytest.fixture(scope="session")
def tiny() -> Graph:
    return graph_of("tiny")


@pytest.fixture(scope="session")
def crossed() -> Graph:
    return graph_of("crossed")

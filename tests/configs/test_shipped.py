"""Every shipped config is possible; some take two steps on their data and evaluate. Those of the
zoo have tests of their own."""

from pathlib import Path

import numpy as np
import pytest

import fusekit
from fusekit.config import load
from fusekit.train.evaluate import evaluate
from fusekit.train.splits import open_splits
from tests.support.often import often

CONFIGS = [
    path
    for path in sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
    if "zoo" not in path.parts
]
NAMES = [str(path.relative_to(path.parents[2])) for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_it_is_possible(path):
    if load(path).experiment.modalities:
        assert fusekit.load(path).losses


@pytest.mark.parametrize(
    "name",
    often(
        ["examples/mfeat.yaml", "examples/missing.yaml", "examples/align_mamba.yaml"],
        ["examples/mfeat.yaml"],
    ),
)
def test_it_trains_and_evaluates(name):
    path = Path(__file__).parents[2] / "configs" / name
    experiment = fusekit.load(path, ["train.steps=2", "train.batch=20"])
    program = fusekit.compile(experiment, steps=2)
    splits = open_splits(experiment)
    state = program.init(seed=0)
    for _ in range(2):
        state, metrics = program.step(state, next(splits["train"]).streams)
    assert np.isfinite(float(metrics["loss"]))
    found = evaluate(program, state, splits["test"])
    assert 0 <= found["accuracy"] <= 1

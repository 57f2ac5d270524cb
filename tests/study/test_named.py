"""Strategies by file, by type, and what is none."""

from pathlib import Path

import pytest

from fusekit.errors import FusekitError
from fusekit.study import strategies

DIGITS = Path(__file__).parents[2] / "configs" / "examples" / "digits"
FIVE = ("early", "bottleneck", "low_rank_tensor", "expert_gate", "sequential")


def test_the_five_strategies_differ_by_one_line():
    plain = [line for line in (DIGITS / "concat.yaml").read_text().splitlines() if line]
    for name in FIVE:
        lines = [line for line in (DIGITS / f"{name}.yaml").read_text().splitlines() if line]
        assert len(lines) == len(plain)
        assert len([a for a, b in zip(lines, plain, strict=True) if a != b]) == 1


def test_files_and_types():
    found = strategies(DIGITS / "concat.yaml", ["concat", *FIVE, "gated"], ["train.batch=8"])
    assert list(found) == ["concat", *FIVE, "gated"]
    assert found["early"].fusion["joint"].type == "early"
    assert list(found["bottleneck"].fusion) == ["joint", "exchange"]
    assert found["gated"].fusion["joint"].type == "gated"
    assert {e.train.batch for e in found.values()} == {8}
    for experiment in found.values():
        assert experiment.data == found["concat"].data
        for encoder in experiment.encoders.values():
            assert encoder.layers() >= 2


def test_shipped_configs():
    found = strategies("fusekit:examples/digits/concat.yaml", ["concat", "early"])
    assert [e.fusion["joint"].type for e in found.values()] == ["concat", "early"]


def test_strangers():
    with pytest.raises(FusekitError, match=r"did you mean .*gated"):
        strategies(DIGITS / "concat.yaml", ["gatd"])
    with pytest.raises(FusekitError, match="has 2 fusions"):
        strategies(DIGITS / "bottleneck.yaml", ["gated"])

"""Knobs, and budgets that are met or said not to be."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import fusekit
from fusekit.errors import FusekitError
from fusekit.study import strategies
from fusekit.study.budget import match, settings, turned
from fusekit.study.cost import Cost
from fusekit.study.turning import Setting, nearest
from tests.study import tiny

GATED = {"type": "gated"}
DIGITS = Path(__file__).parents[2] / "configs/examples/digits/concat.yaml"


def test_parameters_are_those_that_a_program_holds():
    declared = tiny.experiment()
    program = fusekit.compile(declared, steps=1)
    held = sum(array.size for array in program.parameters(program.init()).values())
    assert Cost(declared).parameters == held


def test_flops_grow_with_the_width():
    wide = turned(tiny.experiment(), {"encoders.left.width": 16, "encoders.right.width": 16})
    # matrices of inputs and logits double, those within the MLPs are four times as large
    assert 2 < Cost(wide).flops / Cost(tiny.experiment()).flops < 4


def test_what_fits_stays_as_declared():
    declared = tiny.experiment()
    found = match(declared, Cost(declared), "parameters")
    assert found.experiment is declared
    assert (found.values, found.ratio, found.fits) == ({}, 1.0, True)


@pytest.mark.parametrize("budget", ["parameters", "flops"])
def test_the_knob_is_turned_to_the_budget(budget):
    wide = {"left": {"type": "mlp", "width": 64}, "right": {"type": "mlp", "width": 64}}
    target = Cost(tiny.experiment(encoders=wide))
    found = match(tiny.experiment(joint=GATED, encoders=wide), target, budget)
    assert found.fits
    assert abs(found.cost.of(budget) / target.of(budget) - 1) <= 0.1
    assert found.values["encoders.left.width"] == found.values["encoders.right.width"] < 64
    assert found.experiment.encoders["left"].width == found.values["encoders.left.width"]


def test_what_cannot_be_met_is_said():
    target = Cost(tiny.experiment())
    found = match(tiny.experiment(joint=GATED), target, "parameters", ["heads.*.depth"])
    assert not found.fits
    assert "has no knob to turn" in found.note
    far = {"left": {"type": "mlp", "width": 900}, "right": {"type": "mlp", "width": 900}}
    found = match(tiny.experiment(encoders=far), target, "parameters")
    assert not found.fits
    assert "at its nearest" in found.note
    assert found.values["encoders.left.width"] < 300


def test_nothing_is_matched_without_a_budget():
    found = match(tiny.experiment(joint=GATED), Cost(tiny.experiment()), "none")
    assert (found.values, found.note) == ({}, "")


def test_widths_stay_multiples_of_heads():
    declared = tiny.experiment(
        modalities={
            "left": {"type": "features", "width": 3, "length": 4},
            "right": {"type": "features", "width": 2},
            "label": {"type": "label", "classes": 3},
        },
        encoders={
            "left": {"type": "transformer", "width": 8, "depth": 1, "heads": 4},
            "right": {"type": "mlp", "width": 8},
        },
        joint={"inputs": ["left.mean", "right"]},
    )
    left, right = settings(declared, ["encoders.*.width"])
    assert [left.at(1.3), left.at(1.6), left.at(0.1)] == [12, 12, 4]
    assert [right.at(1.3), right.at(0.01)] == [10, 1]
    assert [s.path for s in settings(declared, ["encoders.left.depth"])] == ["encoders.left.depth"]


def test_a_knob_has_a_form():
    with pytest.raises(FusekitError, match="is no knob"):
        settings(tiny.experiment(), ["train.batch"])


@pytest.mark.parametrize("budget", ["parameters", "flops"])
def test_every_strategy_of_the_demo_meets_its_budget(budget):
    names = ["concat", "sequential", "low_rank_tensor", "expert_gate", "bottleneck", "early"]
    found = strategies(DIGITS, names)
    target = Cost(found["concat"])
    matched = {name: match(one, target, budget) for name, one in found.items()}
    assert {name: one.note for name, one in matched.items() if not one.fits} == {}
    for one in matched.values():
        assert one.cost.of(budget) == pytest.approx(target.of(budget), rel=0.1)
        assert all(value % 4 == 0 for value in one.values.values())


@dataclass
class _Made:
    values: dict
    ratio: float


A, B = (Setting("encoders", name, "width", 32, 4) for name in ("a", "b"))


def test_settings_are_turned_singly_where_no_factor_fits():
    """Costs of 28, 28 and 32, 32 are 14 % off; the nearest pair between is 28, 32 or 32, 28."""

    def at(values):
        a, b = values.values()
        return _Made(values, (a * b) / 900 * (1.01 if a > b else 1))

    found = nearest([A, B], _Made({}, at({"a": 32, "b": 32}).ratio), at, 0.1)
    assert tuple(found.values.values()) == (28, 32)


def test_widths_that_are_not_possible_narrow_the_range():
    """The first factors of the search are not possible; those nearer to the declared one are."""

    def at(values):
        (a,) = values.values()
        return _Made(values, a / 48) if a < 60 else None

    assert nearest([A], _Made({}, 32 / 48), at, 0.05).values == {A.path: 48}


def test_a_hole_in_the_widths_is_stepped_over():
    def at(values):
        (a,) = values.values()
        return _Made(values, a / 48) if a != 48 else None

    found = nearest([A], _Made({}, 32 / 48), at, 0.1)
    assert found.values in ({A.path: 44}, {A.path: 52})

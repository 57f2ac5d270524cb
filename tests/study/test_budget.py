"""Knobs, and budgets that are met or said not to be."""

import pytest

import fusekit
from fusekit.errors import FusekitError
from fusekit.study.budget import match, settings, turned
from fusekit.study.cost import Cost
from tests.study import tiny

GATED = {"type": "gated"}


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

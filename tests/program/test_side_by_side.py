"""When seeds run as one program: where that is faster (tests/benchmarks/replicas.py says so)."""

import pytest

from fusekit.model import FusionModel
from fusekit.side_by_side import pays
from tests.support import strategies

LONG = {"steps": 10_000, "replicas": 4}


def model(*encoders):
    """One encoder for each modality, and their mean."""
    vector = ({"type": "features", "width": 4}, {"type": "mlp", "width": 8})
    kinds = {
        "mlp": vector,
        "other": vector,
        "conv": (
            {"type": "image", "shape": [4, 4, 1]},
            {"type": "conv", "widths": [8], "norm": "group", "groups": 2},
        ),
        "attention": ({"type": "features", "width": 8, "length": 3}, strategies.STACK),
    }
    inputs = [name if kinds[name] is vector else f"{name}.mean" for name in encoders]
    experiment = strategies.declared(
        {name: kinds[name][0] for name in encoders},
        {name: kinds[name][1] for name in encoders},
        {
            "y": {
                "type": "sum",
                "inputs": inputs,
            }
        },
        strategies.classifiers(label="y"),
    )
    return FusionModel(strategies.fusekit.resolve(experiment))


@pytest.mark.parametrize(
    ("encoders", "faster"),
    [(["mlp", "other"], True), (["mlp", "conv"], False), (["mlp", "attention"], False)],
)
def test_on_a_cpu_plain_matrices_run_side_by_side_and_others_in_turn(encoders, faster):
    assert pays(model(*encoders), "float32", "cpu", **LONG) is faster


def test_short_runs_do_not_pay_for_compiling():
    assert not pays(model("mlp", "other"), "float32", "cpu", steps=100, replicas=4)
    assert not pays(model("mlp", "other"), "float32", "gpu", steps=1000, replicas=4)


def test_on_accelerators_everything_runs_side_by_side():
    assert pays(model("mlp", "attention"), "float32", "gpu", **LONG)

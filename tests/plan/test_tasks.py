"""Plans of stages with tasks: the step of one, or of their sum."""

import jax
import pytest

import fusekit
from fusekit.errors import FusekitError
from fusekit.graph import resolve
from fusekit.layout import Layout
from fusekit.plan import compilers as compilers_module
from fusekit.plan import planned, searched
from fusekit.plan.compiled import measure
from fusekit_tpu.topology import Topology

FOUR = Topology.parse("v5e:2x2")
MLP = {"type": "mlp", "hidden": 8, "width": 8}


def declared(turns):
    """Two inputs with a head each, and a task for each."""
    names = ("a", "b")
    return fusekit.experiment(
        modalities={
            **{n: {"type": "features", "width": 16} for n in names},
            **{f"y{n}": {"type": "label", "classes": 2} for n in names},
        },
        encoders=dict.fromkeys(names, MLP),
        heads={f"y{n}": {"type": "classifier", "input": n, "classes": 2} for n in names},
        losses={
            n: {"type": "cross_entropy", "prediction": f"y{n}", "target": f"batch.y{n}"}
            for n in names
        },
        data={"made": {"type": "synthetic"}},
        train={
            "batch": 16,
            "steps": 3,
            "turns": turns,
            "tasks": {"one": {"losses": ["a"]}, "two": {"losses": ["b"], "weight": 2.0}},
        },
    )


@pytest.fixture(autouse=True)
def without_compiler(monkeypatch):
    monkeypatch.setattr(compilers_module, "find_spec", lambda name: None)


def test_the_step_of_a_sum_does_what_those_of_the_tasks_do():
    alone = [planned(declared("alternate"), FOUR, task=task) for task in ("one", "two")]
    whole = planned(declared("sum"), FOUR)
    assert set(alone[0].modalities) - {"shared"} == {"a"}
    assert whole.flops == pytest.approx(sum(one.flops for one in alone), rel=0.02)
    assert whole.modalities["b"] == pytest.approx(alone[1].modalities["b"])


def test_of_tasks_that_alternate_one_is_chosen():
    with pytest.raises(FusekitError, match="tasks that alternate are planned one by one: one, two"):
        planned(declared("alternate"), FOUR)
    with pytest.raises(FusekitError, match="no task is called three: one, two"):
        planned(declared("alternate"), FOUR, task="three")
    with pytest.raises(FusekitError, match="no task that alternates is called one"):
        planned(declared("sum"), FOUR, task="one")
    with pytest.raises(FusekitError, match="tasks that alternate are planned one by one"):
        searched(declared("alternate"), FOUR)


@pytest.mark.parametrize(("turns", "task"), [("alternate", "two"), ("sum", None)])
def test_the_compiler_takes_the_same_step(turns, task):
    experiment = declared(turns)
    layout = Layout.of({"data": 4}, devices=jax.devices()[:4])
    found = measure(resolve(experiment), layout, FOUR, batch=16, task=task)
    of_heads = {"ya", "yb"} if task is None else {"yb"}
    assert {name for name in found.flops_of if name in ("ya", "yb")} == of_heads

"""The published systems: each works as `fusekit zoo --run` says, and any mesh gives the same.

    pytest -m zoo

runs all; the others of a default run only check what costs little.
"""

from contextlib import closing

import jax
import numpy as np
import pytest

import fusekit
from fusekit.api import load_graph
from fusekit.cli.main import run
from fusekit.config.compose import shipped
from fusekit.config.stages import staged
from fusekit.graph.packing import unpack
from fusekit.layout import Layout
from fusekit.objective import loss, read_by
from fusekit.report import svg
from fusekit.report.summary import summarise
from fusekit.study.zoo import examine, systems
from fusekit.train.splits import open_splits
from fusekit.train.turns import given
from tests.zoo.by_hand import COUNTS

FOLDER = shipped() / "zoo"
SYSTEMS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PAPER = sorted(path.stem for path in (FOLDER / "paper").glob("*.yaml"))
CUBE = {"data": 2, "fsdp": 2, "tensor": 2}
ALWAYS = ("albef", "bridgetower", "clip4cir")


def often(names, always):
    """The names as parameters; all but those of `always` are slow."""
    slow = [pytest.mark.slow, pytest.mark.zoo]
    return [pytest.param(name, marks=[] if name in always else slow) for name in names]


@pytest.mark.parametrize("name", often(SYSTEMS, ALWAYS))
def test_is_checked_drawn_and_short(name):
    loaded, graph = load_graph(FOLDER / f"{name}.yaml")
    assert "<svg" in svg.render(summarise(graph, title=name))
    meta = loaded.experiment.meta
    assert meta.name == name
    assert meta.title
    assert meta.paper
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert len([line for line in text if line.strip() and not line.startswith("#")]) <= 60


@pytest.mark.parametrize("name", often(PAPER, ("clip", "skillnet")))
def test_has_the_papers_sizes(name):
    _, graph = load_graph(FOLDER / "paper" / f"{name}.yaml")
    assert summarise(graph).count.parameters == pytest.approx(COUNTS[name], rel=0.02)


def test_the_command_lists_them(capsys):
    assert run(["zoo"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in SYSTEMS)
    assert run(["zoo", "no_such_system"]) == 2


@pytest.mark.slow
@pytest.mark.zoo
@pytest.mark.parametrize("name", SYSTEMS)
def test_works(name):
    found = examine(FOLDER / f"{name}.yaml")
    assert not found.faults()


@pytest.mark.slow
@pytest.mark.zoo
@pytest.mark.parametrize("name", SYSTEMS)
def test_any_mesh_gives_the_loss_and_gradients_of_one_device(name):
    experiment = load_graph(FOLDER / f"{name}.yaml")[0].experiment
    stage = [experiment, *staged(experiment).values()][-1]
    splits = open_splits(stage)
    with closing(splits["train"]) as batches:
        task, batch = given(next(batches))
    losses = stage.train.tasks[task].losses if task else None
    found = []
    for layout in (None, Layout.of(CUBE)):
        program = fusekit.compile(stage, layout=layout)
        state = program.init(0)
        context = program.context("train", jax.random.key(1))

        def objective(params, program=program, state=state, context=context):
            streams = program.batch(batch, wanted=read_by(program.graph.losses, losses))
            return loss(program.model, params, state.variables, streams, context, losses)[0]

        total, grads = jax.jit(jax.value_and_grad(objective))(state.params)
        found.append((float(total), unpack(grads, program.model.groups)))
    (one, grads), (other, theirs) = found
    assert other == pytest.approx(one, rel=1e-5)
    gap = sum(float(np.sum((np.asarray(grads[p]) - np.asarray(theirs[p])) ** 2)) for p in grads)
    size = sum(float(np.sum(np.asarray(g) ** 2)) for g in grads.values())
    assert (gap / size) ** 0.5 < 1e-4


def test_every_system_is_named_once():
    assert [system.id for system in systems()] == SYSTEMS

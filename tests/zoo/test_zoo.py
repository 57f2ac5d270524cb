"""The published systems: each works as `fusekit zoo --run` says, and any mesh gives the same.

    pytest -m zoo

runs all; a default run trains three and checks what costs little of three others.
"""

from contextlib import closing

import pytest

from fusekit.api import load_graph
from fusekit.cli.main import run
from fusekit.config.compose import shipped
from fusekit.config.stages import staged
from fusekit.report import svg
from fusekit.report.summary import summarise
from fusekit.study.zoo import examine, systems
from fusekit.train.splits import open_splits
from fusekit.train.turns import given
from tests.support.meshes import check_cube
from tests.support.often import often
from tests.zoo.by_hand import COUNTS

FOLDER = shipped() / "zoo"
SYSTEMS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PAPER = sorted(path.stem for path in (FOLDER / "paper").glob("*.yaml"))
ALWAYS = ("albef", "bridgetower", "clip4cir")


@pytest.mark.zoo
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


@pytest.mark.zoo
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
    check_cube(stage, batch, losses)


def test_every_system_is_named_once():
    assert [system.id for system in systems()] == SYSTEMS

"""Stages and tasks: what trains when, what stays, and where each stage begins."""

import json
from contextlib import closing

import numpy as np
import pytest

import fusekit
from fusekit.config import dump, load, loads
from fusekit.config.stages import staged
from fusekit.config.train import Task
from fusekit.errors import CheckpointError, ConfigError
from fusekit.study.targets import Targets
from fusekit.train.experiment import train
from fusekit.train.splits import open_splits
from fusekit.train.turns import Turns, changed, given
from tests.support.often import often

SGD = {"optimizer": {"type": "sgd", "momentum": 0.9}, "learning_rate": 0.05, "steps": 3, "batch": 8}

STACK = {"type": "transformer", "depth": 2, "width": 4, "heads": 2, "mlp_ratio": 1}


def declared(stages=None, **changes):
    """A trunk with two heads, a copy of what one reads, and an operator on the trunk."""
    sections = {
        "modalities": {
            "a": {"type": "features", "width": 4, "length": 3, "optional": True},
            "b": {"type": "features", "width": 4, "optional": True},
            "y": {"type": "label", "classes": 2},
        },
        "encoders": {
            "a": STACK,
            "b": {"type": "mlp", "width": 4, "hidden": 4},
            "map": {"type": "conv1d", "input": "batch.a", "width": 4, "depth": 1},
        },
        "fusion": {
            "experts": {"type": "experts", "into": "a@1", "experts": 2, "top": 1, "hidden": 4},
        },
        "heads": {
            "one": {"type": "classifier", "input": "a.mean", "classes": 2},
            "two": {"type": "classifier", "input": "b", "classes": 2},
            "three": {"type": "classifier", "input": "map.mean", "classes": 2},
        },
        "losses": {
            name: {"type": "cross_entropy", "prediction": name, "target": "batch.y"}
            for name in ("one", "two", "three")
        },
        "data": {
            "here": {"type": "synthetic", "sizes": {"train": 16, "test": 8}},
            "there": {"type": "synthetic", "sizes": {"train": 24}, "seed": 1},
        },
        "train": SGD,
        "stages": stages or {},
    }
    return fusekit.experiment(**{**sections, **changes})


def test_what_a_stage_does_not_say_is_as_train_says():
    stages = {"first": {"epochs": 2}, "second": {"losses": ["one"], "clip": 1.0}}
    first, second = staged(declared(stages)).values()
    assert (first.train.steps, first.train.epochs) == (None, 2.0)
    assert (second.train.steps, second.train.clip) == (3, 1.0)
    assert second.train.learning_rate == 0.05
    assert not second.stages


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two stages: heads alone on a frozen trunk without its operator; then everything."""
    stages = {
        "heads": {"losses": ["one", "two"], "trainable": ["one", "two"], "without": ["experts"]},
        "all": {"losses": ["one", "three"], "steps": 2, "data": {"here": 1}},
    }
    experiment = declared(stages)
    root = tmp_path_factory.mktemp("runs")
    return experiment, train(experiment, run_root=root, name="s", progress=False)


def flat_of(run, stage):
    from fusekit.train.run import Run

    return Run(run[1].folder / "stages" / stage).checkpoints.flat()


def test_every_stage_holds_the_same_parameters_whatever_it_runs(run):
    first, second = flat_of(run, "heads"), flat_of(run, "all")
    params = [{p for p in flat if p.startswith("params.")} for flat in (first, second)]
    assert params[0] == params[1]
    assert any("experts" in path for path in params[0])


def test_a_frozen_parameter_is_the_same_to_the_bit_and_has_no_moments(run):
    experiment, _ = run
    first = next(iter(staged(experiment).values()))
    program = fusekit.compile(first)
    before, after = program.flat(program.init()), flat_of(run, "heads")
    trained = [p for p in after if p.startswith(("params.one.", "params.two."))]
    for path in after:
        if path.startswith(("params.", "variables.")) and path not in trained:
            np.testing.assert_array_equal(before[path], after[path], err_msg=path)
    assert all(np.any(before[path] != after[path]) for path in trained)
    moments = [p for p in after if p.startswith("optimizer") and ".trace." in p]
    assert {p.split(".trace.")[1].split(".")[0] for p in moments} == {"one", "two"}


def test_the_next_stage_begins_where_the_one_before_ended(run):
    _, result = run
    report = json.loads((result.folder / "stages" / "all" / "start.json").read_text())
    assert report["missing"] == report["unused"] == report["untrained"] == []
    assert any(path.startswith("experts") for path in report["loaded"])
    before, after = flat_of(run, "heads"), flat_of(run, "all")
    np.testing.assert_array_equal(after["params.two.out.kernel"], before["params.two.out.kernel"])
    assert np.any(after["params.one.out.kernel"] != before["params.one.out.kernel"])


def test_the_folder_tells_of_each_stage(run):
    _, result = run
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary["status"] == "done"
    assert [stage["steps"] for stage in summary["stages"].values()] == [3, 2]
    alone = fusekit.load(result.folder / "stages" / "all" / "config.yaml")
    assert alone.train.losses == ("one", "three")
    assert (result.folder / "report.html").is_file()


def test_the_config_of_the_folder_declares_the_same_stages(run):
    experiment, result = run
    again = load(result.folder / "config.yaml").experiment
    trains = [{name: one.train for name, one in staged(e).items()} for e in (experiment, again)]
    assert trains[0] == trains[1]
    assert loads(dump(again)).experiment == again


def test_a_run_goes_on_with_the_stage_that_is_not_done(run, tmp_path):
    import shutil

    experiment, result = run
    copy = tmp_path / "s" / "again"
    shutil.copytree(result.folder, copy)
    shutil.rmtree(copy / "stages" / "all")
    again = train(experiment, resume=copy, progress=False)
    program = result.program
    one, other = program.flat(result.state), again.program.flat(again.state)
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


@pytest.mark.slow
def test_a_dense_sublayer_becomes_each_expert_and_stages_are_averaged(tmp_path):
    stages = {
        "left": {"losses": ["one"], "steps": 1, "without": ["experts"]},
        "right": {"losses": ["one"], "steps": 1, "without": ["experts"], "learning_rate": 0.5},
        "soup": {
            "losses": ["two"],
            "steps": 1,
            "trainable": ["two"],
            "start": {"average": {"left": 1, "right": 3}},
        },
        "grown": {
            "losses": ["one"],
            "steps": 1,
            "trainable": ["experts.layers.*.router"],
            "start": {
                "stage": "left",
                "copies": {
                    "experts.layers.0.mlps.up": [
                        "left.a.layers.1.mlp.up.kernel",
                        "right.a.layers.1.mlp.up.kernel",
                    ]
                },
            },
        },
    }
    experiment = declared(stages)
    result = train(experiment, run_root=tmp_path, name="s", progress=False)
    flats = {name: flat_of((experiment, result), name) for name in stages}
    path = "params.a.layers.0.mlp.up.kernel"
    due = 0.25 * flats["left"][path] + 0.75 * flats["right"][path]
    np.testing.assert_allclose(flats["soup"][path], due, rtol=1e-6)
    experts = flats["grown"]["params.experts.layers.0.mlps.up"]
    for k, name in enumerate(("left", "right")):
        np.testing.assert_array_equal(experts[k], flats[name]["params.a.layers.1.mlp.up.kernel"])


def test_tasks_alternate_by_their_shares_and_go_on_where_they_stood():
    tasks = {"x": Task(losses=("one",), weight=3), "y": Task(losses=("two",), weight=1)}
    turns = Turns(tasks, {}, "alternate")
    order = [turns.task_of(step) for step in range(400)]
    assert order.count("x") == pytest.approx(300, abs=2)
    assert max(order[k : k + 8].count("x") for k in range(390)) <= 7


@pytest.mark.parametrize("turns", ["alternate", "sum"])
def test_targets_are_shuffled_in_every_task(turns):
    tasks = {"first": {"losses": ["one"]}, "second": {"losses": ["two"]}}
    experiment = declared(train={**SGD, "tasks": tasks, "turns": turns})
    shuffled = Targets(experiment, "train", ("y",)).shuffled(0)
    with closing(open_splits(experiment)["train"]) as training:
        batch = next(training)
    other = changed(batch, shuffled.into)
    same = [
        np.array_equal(one["y"].values, two["y"].values)
        for one, two in zip(*(tables(given(each)[1]) for each in (batch, other)), strict=True)
    ]
    assert given(other)[0] == given(batch)[0]
    assert same == [False] * (2 if turns == "sum" else 1)


def tables(streams):
    """Streams of each task."""
    return list(streams.values()) if "first" in streams else [streams]


@pytest.mark.parametrize("turns", often(["alternate", "sum"], ["sum"]))
def test_a_task_trains_what_its_losses_reach(tmp_path, turns):
    tasks = {
        "x": {"losses": ["one"], "data": {"here": 1}},
        "y": {"losses": ["two"], "data": {"there": 1}, "weight": 0.5},
    }
    experiment = declared(train={**SGD, "steps": 4, "tasks": tasks, "turns": turns})
    result = train(experiment, run_root=tmp_path, name="t", progress=False)
    lines = [json.loads(x) for x in (result.folder / "metrics.jsonl").read_text().splitlines()]
    seen = [set(line["values"]) for line in lines if line["split"] == "train"]
    both = {"losses.one", "losses.two"}
    assert all((both <= names) == (turns == "sum") for names in seen)
    assert set().union(*seen) >= both
    before = result.program.flat(result.program.init())
    after = result.program.flat(result.state)
    assert np.any(before["params.two.out.kernel"] != after["params.two.out.kernel"])
    np.testing.assert_array_equal(
        before["params.three.out.kernel"], after["params.three.out.kernel"]
    )


FAULTS = {
    "unknown loss": ({"s": {"losses": ["on"]}}, "`losses` has no entry of this name"),
    "later stage": ({"s": {"start": "t"}, "t": {}}, "there is no earlier stage of this name"),
    "not an operator": ({"s": {"without": ["exprts"]}}, "`fusion` has no entry of this name"),
    "both": ({"s": {"tasks": {"t": {"losses": ["one"]}}, "losses": ["one"]}}, "give either"),
    "two origins": (
        {"r": {}, "s": {"start": {"stage": "r", "folder": "x"}}},
        "are both given: give one",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told(fault):
    stages, message = FAULTS[fault]
    with pytest.raises(ConfigError) as caught:
        declared(stages)
    assert message in str(caught.value)


def test_a_loss_that_reads_what_is_left_away_is_told():
    losses = {"balance": {"type": "auxiliary", "input": "experts.balance"}}
    experiment = declared({"s": {"without": ["experts"]}}, losses=losses)
    (one,) = staged(experiment).values()
    with pytest.raises(ConfigError) as caught:
        fusekit.resolve(one)
    assert "of an operator that is left away" in str(caught.value)


def test_a_start_that_fits_nowhere_is_told(tmp_path):
    stages = {
        "s": {"losses": ["one"], "steps": 1},
        "t": {"losses": ["one"], "steps": 1, "start": {"stage": "s", "rename": {"z": "one"}}},
    }
    with pytest.raises(CheckpointError):
        train(declared(stages), run_root=tmp_path, name="s", progress=False)


def test_an_operator_that_only_another_stage_reads_is_no_fault():
    reads = {"one": "one", "two": "two", "three": "three", "again": "again.one"}
    experiment = declared(
        {"alone": {"losses": ["one"]}, "both": {}},
        fusion={"tuned": {"type": "adapter", "into": "again.a@1", "hidden": 2}},
        parts={"again": {"of": ["one"]}},
        losses={
            name: {"type": "cross_entropy", "prediction": reference, "target": "batch.y"}
            for name, reference in reads.items()
        },
    )
    graphs = [fusekit.resolve(stage) for stage in staged(experiment).values()]
    acts = [{event.node for event in graph.events} & {"tuned"} for graph in graphs]
    assert acts == [set(), {"tuned"}]

"""Annotate stages: what one stage answers is data of the next."""

import json
from contextlib import closing

import numpy as np
import pytest

import fusekit
from fusekit.api import load_graph
from fusekit.cli.main import run
from fusekit.config import load, loads
from fusekit.data.annotations import Annotations
from fusekit.errors import ConfigError, DataError
from fusekit.train.checkpoint import Checkpoints
from fusekit.train.experiment import train
from fusekit.train.splits import open_splits

CONFIG = """
version: 1
modalities:
  a: {type: features, width: 3}
  y: {type: label, classes: 3}
  score: {type: features, width: 3}
  guess: {type: label, classes: 3}
encoders:
  a: {type: mlp, width: 8}
  score: {type: mlp, width: 8}
fusion:
  both: {type: concat, inputs: [a, score]}
heads:
  first: {type: classifier, input: a, classes: 3}
  second: {type: classifier, input: both, classes: 3}
losses:
  first: {type: cross_entropy, prediction: first, target: batch.y}
  second: {type: cross_entropy, prediction: second, target: batch.guess}
metrics:
  first: {type: accuracy, prediction: first, target: batch.y}
  second: {type: accuracy, prediction: second, target: batch.guess}
data:
  made: {type: synthetic, sizes: {train: 32, validation: 8, test: 12}}
train: {batch: 8, steps: 4, learning_rate: 0.05}
stages:
  teach: {losses: [first], metrics: [first]}
  mark: {type: annotate, write: {batch.score: first, batch.guess: first}}
  learn: {losses: [second], metrics: [second]}
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    experiment = loads(CONFIG).experiment
    root = tmp_path_factory.mktemp("runs")
    return train(experiment, run_root=root, name="marked", progress=False)


def stage(result, name):
    return result.folder / "stages" / name


def test_what_is_stored_is_what_the_stage_before_answers(result):
    found = {
        name: Annotations.read(stage(result, "mark") / "annotations" / "made" / f"{name}.npz")
        for name in ("score", "guess")
    }
    assert [len(one) for one in found.values()] == [52, 52]
    np.testing.assert_array_equal(found["score"].rows, np.arange(52))
    np.testing.assert_array_equal(found["guess"].values, found["score"].values.argmax(-1))
    experiment = load(stage(result, "teach") / "config.yaml").experiment
    program = fusekit.compile(experiment)
    state = Checkpoints(stage(result, "teach") / "checkpoints").restore(program).state
    with closing(open_splits(experiment)["test"]) as rows:
        batch = next(iter(rows))
    assert not {"score", "guess"} & set(batch.streams)
    answers = program.evaluate(state, batch.streams)["metrics"]["first"]["columns"]["prediction"]
    stored = np.stack(found["score"].at(batch.index[batch.valid]))
    np.testing.assert_allclose(stored, np.asarray(answers)[batch.valid], rtol=1e-6)


def test_the_next_stage_reads_it_row_by_row(result):
    experiment = load(stage(result, "learn") / "config.yaml").experiment
    with closing(open_splits(experiment)["train"]) as rows:
        batch = next(rows)
    kept = Annotations.read(stage(result, "mark") / "annotations" / "made" / "score.npz")
    np.testing.assert_array_equal(batch.streams["score"].values, np.stack(kept.at(batch.index)))
    assert (
        batch.streams["guess"].values.tolist() == batch.streams["score"].values.argmax(-1).tolist()
    )


def test_the_run_can_be_evaluated_and_gone_on_with(result, capsys):
    assert run(["evaluate", str(result.folder), "--json", "--quiet"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert values["second"] == result.metrics["test"]["second"]
    assert "first" not in values
    again = train(loads(CONFIG).experiment, resume=result.folder, progress=False)
    assert again.metrics == result.metrics


@pytest.mark.slow
def test_only_the_sources_of_the_stage_are_written(tmp_path):
    text = CONFIG.replace("made: {", "left: {type: synthetic}\n  made: {")
    text = text.replace("train: {batch", "train: {data: {made: 1}, batch")
    result = train(loads(text).experiment, run_root=tmp_path, name="marked", progress=False)
    folder = stage(result, "mark") / "annotations"
    assert [one.name for one in folder.iterdir()] == ["made"]


def test_padded_sequences_come_back_without_their_padding(tmp_path):
    rng = np.random.default_rng(0)
    values, mask = rng.normal(size=(3, 4, 2)), np.array([[1, 1, 0, 0], [1] * 4, [0] * 4], bool)
    Annotations(np.array([7, 2, 5]), values, mask).write(tmp_path / "a.npz")
    found = Annotations.read(tmp_path / "a.npz").at(np.array([2, 3, 7, 5, 9]))
    assert [None if one is None else len(one) for one in found] == [4, None, 2, 0, None]
    np.testing.assert_array_equal(found[0], values[1])
    np.testing.assert_array_equal(found[2], values[0, :2])
    (tmp_path / "b.npz").write_text("nothing of the kind")
    with pytest.raises(DataError, match="holds no annotations"):
        Annotations.read(tmp_path / "b.npz")


BEFORE = "{losses: [first], metrics: [first]}"
MARK = "{batch.score: first, batch.guess: first}"


@pytest.mark.parametrize(
    ("old", "new", "due"),
    [
        (
            BEFORE,
            "{losses: [second], metrics: [first]}",
            "stages.teach: losses or metrics of the stage need what it does not read\n"
            "    found: batch.score, batch.guess\n"
            "    expected: losses and metrics that do without, or a stage before that writes it",
        ),
        (
            MARK,
            "{batch.score: a}",
            "stages.mark.write.batch.score: the modality is of another kind\n"
            "    found: vector(embed 8)\n"
            "    expected: vector(embed 3)",
        ),
        (
            MARK,
            "{batch.scores: first}",
            "stages.mark.write.batch.scores: `modalities` has no entry of this name\n"
            '    found: "scores"\n'
            "    expected: one of a, y, score, guess\n"
            "    did you mean: score",
        ),
        (
            MARK,
            "{batch.score: frist}",
            "stages.mark.write.batch.score: nothing is called frist",
        ),
        (
            "{type: annotate, write: " + MARK + "}",
            "{type: annotate}",
            "stages.mark: `type: annotate` and `write` go together: one is lacking",
        ),
    ],
)
def test_faults_are_told_where_they_are(tmp_path, old, new, due):
    assert old in CONFIG
    path = tmp_path / "broken.yaml"
    path.write_text(CONFIG.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_graph(path)
    told = [str(problem) for problem in caught.value.problems]
    assert any(due in text for text in told), told


def test_what_only_an_annotate_stage_reads_is_no_dead_end(tmp_path):
    text = CONFIG.replace("  a: {type: mlp, width: 8}", "  a: {type: mlp, width: 8}\n"
                          "  more: {type: mlp, input: batch.a, width: 3}")  # fmt: skip
    path = tmp_path / "more.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="nothing uses more"):
        load_graph(path)
    path.write_text(text.replace("batch.score: first", "batch.score: more"))
    load_graph(path)

"""A whole comparison of small models, its numbers worked out again from what it left."""

import json

import numpy as np
import pytest

import fusekit
from fusekit.cli.main import run
from fusekit.errors import FusekitError
from fusekit.study import Comparison, compare, contest
from fusekit.study.differences import differences
from fusekit.study.statistics import paired_t_interval, t_interval
from fusekit.study.table import markdown, remarks
from fusekit.study.targets import open_split
from fusekit.train.checkpoint import Checkpoints
from fusekit.train.evaluate import Columns, Gathered, evaluate
from tests.study import tiny

SEEDS = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Comparison:
    experiments = {"concat": tiny.experiment(), "gated": tiny.experiment(joint={"type": "gated"})}
    root = tmp_path_factory.mktemp("runs")
    return compare(
        experiments,
        seeds=SEEDS,
        budget="none",
        rates=[0.003, 0.03],
        resamples=40,
        root=root,
        progress=False,
    )


def test_who_takes_part(found):
    roles = {entry.name: entry.role for entry in found.entries}
    assert roles == {
        "left": "single",
        "right": "single",
        "concat": "baseline",
        "gated": "strategy",
    }
    assert list(roles) == ["left", "right", "concat", "gated"]
    for entry in found.entries:
        assert len(entry.scores) == len(entry.validation) == SEEDS
        assert len(entry.control) == 1
        assert entry.rate in (0.003, pytest.approx(0.03))
        assert entry.step_seconds > 0
        assert entry.answered == 1


def test_intervals_and_differences(found):
    single, concat, gated = found.best_single, found["concat"], found["gated"]
    assert single.score.mean == max(e.score.mean for e in found.of("single"))
    for entry in found.entries:
        assert entry.score == t_interval(entry.scores)
    for ours, theirs, difference in (
        (gated, single, gated.vs_single),
        (concat, single, concat.vs_single),
        (gated, concat, gated.vs_baseline),
        (found["left"], concat, found["left"].vs_baseline),
    ):
        assert difference.to == theirs.name
        assert difference.rows == 18
        want = paired_t_interval(ours.scores, theirs.scores)
        np.testing.assert_allclose(
            [difference.seeds.mean, difference.seeds.low], [want.mean, want.low]
        )
        assert difference.samples.mean == difference.seeds.mean
        assert difference.samples.low <= difference.samples.high
    assert concat.vs_baseline is None
    assert found["left"].vs_single is None


def test_the_rate_was_chosen_on_validation(found):
    for entry in found.entries:
        assert len(entry.rates) == 2
        assert entry.rates[entry.rate] == max(entry.rates.values())
        np.testing.assert_allclose(entry.validation[0], entry.rates[entry.rate])


def test_the_constant_predictor(found):
    declared = tiny.experiment()
    by_split = {}
    for split in ("train", "test"):
        pipeline = open_split(declared, split, training=False)
        rows = [b.streams["label"].values[b.valid] for b in pipeline]
        by_split[split] = np.concatenate(rows)
        pipeline.close()
    common = np.bincount(by_split["train"]).argmax()
    np.testing.assert_allclose(found.constant, np.mean(by_split["test"] == common))


def test_every_model_is_held_against_what_learns_nothing(found):
    for entry in found.entries:
        constant, control = entry.vs_constant, entry.vs_control
        assert constant.score == pytest.approx(found.constant)
        assert constant.samples.mean == pytest.approx(entry.score.mean - found.constant)
        assert control.score == pytest.approx(np.mean(entry.control))
        assert control.samples.mean == pytest.approx(entry.score.mean - control.score)
        for margin in (constant, control):
            assert margin.rows == 18
            assert margin.samples.low <= margin.samples.high
            assert margin.beaten == (margin.samples.low > 0)
    lost = found.unbeaten()
    assert set(lost) == {"constant", "shuffled"}
    for name in lost["constant"]:
        assert not found[name].vs_constant.beaten
    (remark,) = [line for line in remarks(found) if "zero outside the interval over" in line]
    for names in lost.values():
        assert all(name in remark for name in names)


def test_models_can_be_opened_again(found):
    """The folder's models, by an ordinary program, score what was reported."""
    for name in ("left", "gated"):
        entry = found[name]
        for seed, score in enumerate(entry.scores, 3):
            run = found.folder / entry.folder / f"seed_{seed}"
            declared = fusekit.load(run / "config.yaml")
            assert declared.train.learning_rate == pytest.approx(entry.rate)
            assert declared.train.seed == seed
            noted = f"Seed {seed} of a comparison: its batches were those of seed 3."
            assert declared.meta.notes == (noted if seed != 3 else None)
            program = fusekit.compile(declared)
            state = Checkpoints(run / "best", wait=True).replica(program)
            pipeline = open_split(declared, "test", training=False)
            assert evaluate(program, state, pipeline)["accuracy"] == pytest.approx(score)
            pipeline.close()


def test_what_is_written(found):
    written = json.loads((found.folder / "compare.json").read_text())
    assert [e["name"] for e in written["entries"]] == ["left", "right", "concat", "gated"]
    assert written["entries"][3]["scores"] == list(found["gated"].scores)
    assert (written["budget"], written["metric"]) == ("none", "accuracy")
    text = (found.folder / "compare.md").read_text()
    assert text == markdown(found)
    assert "batches of seed 3" in (found.folder / "gated" / "README.md").read_text()
    assert written["finished"] is True
    assert written["entries"][3]["vs_constant"]["score"] == found.constant
    for word in (
        "less constant",
        "less shuffled",
        "left alone",
        "gated",
        "constant predictor",
        "bootstrap draws over test rows",
        "over samples",
        "Nothing was matched",
    ):
        assert word in text
    assert (found.folder / "environment.json").is_file()


def test_rows_that_one_lacks_are_left_out():
    """A difference counts the rows that both answer."""
    graph = fusekit.resolve(tiny.experiment())

    def model(right, rows):
        target = np.zeros(4, np.int64)
        logits = np.where(np.array(right)[:, None], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
        columns = {"prediction": logits, "target": target}
        return Gathered({}, {"accuracy": Columns(columns, np.array(rows, bool))})

    tested = {
        "a": [model([1, 1, 0, 0], [1, 1, 1, 0]), model([1, 0, 1, 1], [1, 1, 1, 0])],
        "b": [model([0, 1, 0, 1], [0, 1, 1, 1]), None],
    }
    found = differences([("a", "b")], tested, graph, "accuracy", resamples=30)[("a", "b")]
    assert (found.rows, found.seeds.mean) == (2, 0.0)
    assert np.isnan(found.seeds.low)


def test_what_cannot_be_compared():
    base = tiny.experiment()
    with pytest.raises(FusekitError, match="baseline"):
        compare({"gated": base}, progress=False)
    other = tiny.experiment(train={"batch": 4})
    with pytest.raises(FusekitError, match="`train` differ"):
        compare({"concat": base, "other": other}, progress=False)
    with pytest.raises(FusekitError, match="no metric f1"):
        compare({"concat": base}, metric="f1", progress=False)


def test_rates_that_are_none_are_refused_before_training():
    for rates in ([], [0.0], [float("nan")], [0.1, float("inf")]):
        with pytest.raises(FusekitError, match="finite and above 0"):
            compare({"concat": tiny.experiment()}, rates=rates, progress=False)


def test_knobs_of_nobody_are_refused_before_training():
    base = {"concat": tiny.experiment()}
    with pytest.raises(FusekitError, match=r"a knob is of gatd.*concat, left, right"):
        compare(base, knobs={"gatd": ["encoders.*.width"]}, progress=False)
    with pytest.raises(FusekitError, match="is no knob"):
        compare(base, knobs=["train.batch"], progress=False)


@pytest.mark.slow
def test_models_of_relative_data_can_be_opened_from_anywhere(tmp_path, monkeypatch, capsys):
    """Nor is a model of a comparison a run to go on with."""
    rng = np.random.default_rng(0)
    columns = {"left": (24, 3), "right": (24, 2)}
    arrays = {name: rng.normal(size=shape).astype("float32") for name, shape in columns.items()}
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "d.npz", label=np.arange(24) % 3, **arrays)
    split = {"type": "holdout", "fractions": {"train": 0.5, "validation": 0.25, "test": 0.25}}
    data = {"made": {"type": "arrays", "path": "data/d.npz", "split": split}}
    monkeypatch.chdir(tmp_path)
    found = compare(
        {"concat": tiny.experiment(data=data)},
        seeds=1,
        singles=False,
        control_seeds=0,
        rates=[0.01],
        root="runs",
        progress=False,
    )
    model = found.folder.resolve() / found["concat"].folder / "seed_3"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert fusekit.load(model / "config.yaml").data["made"].path == tmp_path / "data" / "d.npz"
    assert run(["evaluate", str(model), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["values"]["accuracy"] == pytest.approx(found["concat"].scores[0])
    before = sorted(path.name for path in model.iterdir())
    assert run(["train", "--resume", str(model), "-q"]) == 2
    assert run(["train", str(model / "config.yaml"), "--resume", str(model), "-q"]) == 2
    assert "holds no state to go on from" in capsys.readouterr().err
    assert sorted(path.name for path in model.iterdir()) == before
    started = ["train", str(model / "config.yaml"), "--start", str(model / "best"), "-q"]
    assert run([*started, "--set", "train.steps=1"]) == 0


def test_a_stop_leaves_what_is_done(tmp_path, monkeypatch, capsys):
    trained = contest._Study.entry

    def entry(self, name, *arguments):
        if name == "concat":
            raise KeyboardInterrupt
        return trained(self, name, *arguments)

    monkeypatch.setattr(contest._Study, "entry", entry)
    with pytest.raises(KeyboardInterrupt):
        compare(
            {"concat": tiny.experiment()}, seeds=1, control_seeds=0, rates=[0.01], root=tmp_path
        )
    (written,) = tmp_path.glob("compare/*/compare.json")
    kept = json.loads(written.read_text())
    assert [one["name"] for one in kept["entries"]] == ["left", "right"]
    assert kept["finished"] is False
    assert kept["entries"][0]["scores"][0] >= 0
    assert "stopped: 2 of 3 models are done" in capsys.readouterr().err

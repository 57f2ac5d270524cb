import contextlib
import io
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import FusekitError
from fusekit.program import Replicas
from fusekit.train.checkpoint import Checkpoints, DamagedWarning
from fusekit.train.evaluate import evaluate
from fusekit.train.guard import Guard, NonFiniteError, NonFiniteWarning
from fusekit.train.loop import fit, resumed, steps_of
from fusekit.train.progress import Progress
from fusekit.train.report import read_metrics
from fusekit.train.run import Run
from tests.train import tiny


class Altered:
    """A pipeline whose batches pass through a function of (number from 1, streams)."""

    def __init__(self, pipeline, change):
        self.pipeline, self.change, self.count = pipeline, change, 0

    def __len__(self):
        return len(self.pipeline)

    def __iter__(self):
        return self

    def __next__(self):
        self.count += 1
        return self.change(self.count, dict(next(self.pipeline).streams))

    def state(self):
        return self.pipeline.state()


@pytest.fixture
def run(tmp_path):
    with contextlib.closing(Run.create(tiny.experiment(), root=tmp_path, name="t")) as made:
        yield made


@pytest.fixture
def validation():
    with contextlib.closing(tiny.pipeline("validation")) as opened:
        yield opened


def trained(run, split):
    return [(e["step"], e["values"]) for e in read_metrics(run.folder) if e["split"] == split]


def test_resuming_is_bit_identical(program, pipeline, validation, tmp_path, run):
    """Eight steps at once, against five, a fresh process's worth of objects, and three more."""
    whole = fit(
        program, program.init(), pipeline, steps=8, validation=validation, run=run, progress=False
    )
    expected = tiny.flat(program, whole.state)
    assert int(expected["step"]) == 8

    other = Run.create(tiny.experiment(), root=tmp_path, name="cut")
    with contextlib.closing(tiny.pipeline("train")) as first:
        fit(program, program.init(), first, steps=5, validation=validation, run=other,
            progress=False)  # fmt: skip
    other.close()
    other = Run.reopen(other.folder, tiny.experiment())
    with contextlib.closing(tiny.pipeline("train")) as second:
        state = resumed(program, second, other)
        assert int(state.step) == 5
        found = fit(program, state, second, steps=8, validation=validation, run=other,
                    progress=False)  # fmt: skip
    other.close()
    assert tiny.same(tiny.flat(program, found.state), expected)
    assert trained(other, "train") == trained(run, "train")
    assert trained(other, "validation")[-1] == trained(run, "validation")[-1]


def test_resuming_after_damage_repeats_the_lost_steps(program, pipeline, run):
    whole = fit(program, program.init(), pipeline, steps=8, run=run, progress=False)
    expected, lines = tiny.flat(program, whole.state), trained(run, "train")
    assert run.checkpoints.steps() == [6, 8]
    victim = run.folder / "checkpoints" / "8" / "state" / "manifest.ocdbt"
    victim.write_bytes(victim.read_bytes()[:-3])
    with contextlib.closing(tiny.pipeline("train")) as again:
        with pytest.warns(DamagedWarning, match="step 8"):
            state = resumed(program, again, run)
        assert len(trained(run, "train")) == 6
        found = fit(program, state, again, steps=8, run=run, progress=False)
    assert tiny.same(tiny.flat(program, found.state), expected)
    assert trained(run, "train") == lines
    assert run.checkpoints.verify() == {6: [], 8: []}


def test_a_run_without_checkpoints_starts_anew(program, pipeline, run):
    run.log(2, "train", {"loss": 1.0})
    state = resumed(program, pipeline, run)
    assert int(state.step) == 0
    assert read_metrics(run.folder) == []


def poison(at):
    def change(number, streams):
        if number == at:
            sound = streams["sound"]
            streams["sound"] = sound.with_(values=np.full_like(sound.values, np.nan))
        return streams

    return change


def test_a_loss_that_is_not_finite_stops_with_its_terms(program, pipeline, run):
    with pytest.raises(NonFiniteError, match=r"step 7: loss nan.*losses\.fit nan") as caught:
        fit(program, program.init(), Altered(pipeline, poison(7)), steps=8, run=run,
            progress=False)  # fmt: skip
    assert caught.value.step == 7
    assert run.checkpoints.verify() == {3: [], 6: []}
    assert all(
        np.isfinite(array).all()
        for array in tiny.flat(program, run.checkpoints.restore(program).state).values()
    )
    last = trained(run, "train")[-1]
    assert last[0] == 7
    assert last[1]["loss"] is None


def test_nothing_is_saved_of_a_step_that_is_not_finite(program, pipeline, run):
    """Step 6 would be saved in the same turn."""
    with pytest.raises(NonFiniteError, match="step 6"):
        fit(program, program.init(), Altered(pipeline, poison(6)), steps=8, run=run,
            progress=False)  # fmt: skip
    assert run.checkpoints.steps() == [3]


def test_parameters_are_looked_at_before_a_checkpoint(program, turns):
    def broken(state):
        params = jax.tree.map(jnp.copy, state.params)
        params["table"]["layers"][0]["kernel"] = params["table"]["layers"][0]["kernel"] * jnp.inf
        return state.with_(params=params)

    guard = Guard(program)
    guard.check_state(3, program.init())
    with pytest.raises(NonFiniteError, match=r"step 3: parameters table\.layers\.0\.kernel \("):
        guard.check_state(3, broken(program.init()))
    guard, state = Guard(turns), turns.init()
    state = Replicas((broken(state.states[0]), state.states[1]))
    with pytest.warns(NonFiniteWarning, match="replica 0: not finite at step 4: parameters"):
        guard.check_state(4, state)
    assert guard.dead == {0: 4}


@pytest.mark.slow
def test_one_replica_may_die(pipeline, validation, run):
    turns = tiny.program(tiny.experiment({"select": "gap"}), replicas=2, mode="loop")
    state = turns.init()
    params = jax.tree.map(lambda leaf: leaf * jnp.nan, state.states[1].params)
    state = Replicas((state.states[0], state.states[1].with_(params=params)))
    with pytest.warns(NonFiniteWarning, match="replica 1: not finite at step 1"):
        fitted = fit(turns, state, pipeline, steps=3, validation=validation, run=run,
                     progress=False)  # fmt: skip
    assert fitted.dead == {1: 1}
    assert fitted.best_steps[0] == 3
    assert fitted.best_steps[1] is None
    step, values = trained(run, "train")[0]
    assert step == 1
    assert values["loss"][0] > 0
    assert values["loss"][1] is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_training_with_a_checkpoint(program, pipeline, run, number):
    before = signal.getsignal(number)

    def change(count, streams):
        if count == 5:
            os.kill(os.getpid(), number)
        return streams

    fitted = fit(program, program.init(), Altered(pipeline, change), steps=8, run=run,
                 progress=False)  # fmt: skip
    assert fitted.stopped == number.name
    assert fitted.steps == 5
    assert run.checkpoints.verify() == {3: [], 5: []}
    assert signal.getsignal(number) is before
    with contextlib.closing(tiny.pipeline("train")) as again:
        state = resumed(program, again, run)
        assert again.state()["step"] == 5
        found = fit(program, state, again, steps=8, run=run, progress=False)
    with contextlib.closing(tiny.pipeline("train")) as other:
        whole = fit(program, program.init(), other, steps=8, progress=False)
    assert tiny.same(tiny.flat(program, found.state), tiny.flat(program, whole.state))


@pytest.fixture(scope="module")
def selecting():
    """A learning rate so high that things get worse: the best is not the last."""
    return tiny.program(tiny.experiment({"select": "gap", "learning_rate": 0.5}))


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_the_best_state_is_kept(selecting, pipeline, validation, run, where):
    fitted = fit(
        selecting,
        selecting.init(),
        pipeline,
        steps=8,
        validation=validation,
        run=run if where == "folder" else None,
        progress=False,
    )
    assert evaluate(selecting, fitted.best, validation)["gap"] == fitted.best_values[0]
    assert int(fitted.best.step) == fitted.best_steps[0]
    assert evaluate(selecting, fitted.state, validation) == fitted.validation
    if where == "memory":
        return
    seen = dict(trained(run, "validation"))
    lowest = min(seen, key=lambda step: seen[step]["gap"])
    assert lowest != 8, "the test is to have a best that is not the last"
    assert fitted.best_steps == (lowest,)
    assert fitted.best_values == (seen[lowest]["gap"],)
    best = Checkpoints(run.folder / "best")
    assert best.steps() == [lowest]
    assert best.about(lowest)["extra"] == {"metric": "gap", "value": fitted.best_values[0]}


def test_selecting_needs_something_to_validate_on(selecting, pipeline):
    with pytest.raises(FusekitError, match="measured on validation rows"):
        fit(selecting, None, pipeline, steps=1, progress=False)


def test_steps_or_epochs(pipeline):
    assert len(pipeline) == 5
    assert steps_of(tiny.experiment(), pipeline) == 8
    assert steps_of(tiny.experiment({"steps": None, "epochs": 2.5}), pipeline) == 12
    assert steps_of(tiny.experiment({"steps": None, "epochs": 0.01}), pipeline) == 1
    assert steps_of(tiny.experiment({"steps": None}), pipeline) == 50


def test_plain_lines_where_there_is_no_terminal(program, pipeline, validation, capsys):
    fit(program, program.init(), pipeline, steps=3, validation=validation)
    lines = capsys.readouterr().err.splitlines()[-2:]
    assert [line.split("  ")[0] for line in lines] == ["step 3/3", "step 3/3"]
    assert "loss " in lines[0]
    assert "validation: loss " in lines[1]


def test_a_bar_where_there_is_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Progress(4, start=1, stream=stream) as shown:
        shown.step(2, {"loss": 1.5, "gradient_norm": 2.0})
        shown.evaluated(2, "validation", {"accuracy": 0.25})
    text = stream.getvalue()
    assert "2/4" in text
    assert "loss 1.5" in text
    assert "step 2/4  validation: accuracy 0.25" in text


def test_an_evaluation_that_a_signal_put_off_is_made_up_for(selecting, pipeline, validation, run):
    """The best of steps 3, 6 and 8 is the same whether or not training was stopped at 3."""

    def change(count, streams):
        if count == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return streams

    cut = fit(selecting, selecting.init(), Altered(pipeline, change), steps=8,
              validation=validation, run=run, progress=False)  # fmt: skip
    assert (cut.steps, cut.validation) == (3, None)
    with contextlib.closing(tiny.pipeline("train")) as again:  # killed after it was made up for
        state = resumed(selecting, again, run)
        fit(selecting, state, again, steps=3, validation=validation, run=run, progress=False)
    assert [step for step, _ in trained(run, "validation")] == [3]
    with contextlib.closing(tiny.pipeline("train")) as again:
        state = resumed(selecting, again, run)
        found = fit(selecting, state, again, steps=8, validation=validation, run=run,
                    progress=False)  # fmt: skip
    assert [step for step, _ in trained(run, "validation")] == [3, 6, 8]
    with contextlib.closing(tiny.pipeline("train")) as other:
        whole = fit(selecting, selecting.init(), other, steps=8, validation=validation,
                    progress=False)  # fmt: skip
    assert found.best_steps == whole.best_steps
    assert found.best_values == whole.best_values


def test_a_damaged_best_state_is_set_aside(selecting, pipeline, validation, run):
    fit(selecting, selecting.init(), pipeline, steps=4, validation=validation, run=run,
        progress=False)  # fmt: skip
    (step,) = run.best().steps()
    (run.best().folder / str(step) / "digests.json").write_text("{")
    with contextlib.closing(tiny.pipeline("train")) as again:
        state = resumed(selecting, again, run)
        with pytest.warns(DamagedWarning, match="best state so far is lost"):
            found = fit(selecting, state, again, steps=8, validation=validation, run=run,
                        progress=False)  # fmt: skip
    assert found.best_steps[0] in (6, 8)
    assert (run.best().folder / f"damaged-{step}-0").is_dir()


def test_compiling_is_told(program, pipeline, capsys):
    fit(program, program.init(), pipeline, steps=1)
    assert capsys.readouterr().err.splitlines()[0] == "compiling"

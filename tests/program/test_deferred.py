"""Logits over a large vocabulary that are never made: the same numbers, and who still gets them."""

import jax
import numpy as np
import pytest

import fusekit
from fusekit.deferred import Deferred, deferrable
from fusekit.jaxprs import equations
from fusekit.objective import read_by
from fusekit.program import Program
from fusekit.stream import Stream
from fusekit_modules.heads import _unmade
from fusekit_modules.ops.linear_cross_entropy import op, xla
from tests.support.meshes import check_cube
from tests.support.often import often
from tests.support.training import assert_close, distance, gradients, trained

WORDS, LENGTH, ROWS, WIDTH = 48, 5, 8, 8
SGD = {"optimizer": {"type": "sgd", "momentum": 0.9}, "learning_rate": 0.1, "steps": 10}
STACK = {"type": "transformer", "width": WIDTH, "heads": 2, "mlp_ratio": 1}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Forty words are a large vocabulary, in chunks of sixteen."""
    monkeypatch.setattr(op, "LEAST_VOCABULARY", 40)
    monkeypatch.setattr(op, "MOST_LOGITS", 100)
    monkeypatch.setattr(xla, "chunks", lambda rows, words, size=None: (16, (words - 1) // 16))


def sections(**changes):
    given = {
        "modalities": {
            "text": {"type": "tokens", "vocab": WORDS, "length": LENGTH, "optional": True},
            "masked": {"type": "mask_tokens", "of": "text", "rate": 0.4},
            "image": {"type": "features", "width": WIDTH, "optional": True},
        },
        "encoders": {
            "text": {"type": "embed", "input": "batch.masked", "width": WIDTH},
            "image": {"type": "mlp", "width": WIDTH},
        },
        "heads": {
            "words": {"type": "lm", "input": "text", "vocab": WORDS, "dropout": 0.1},
            "other": {"type": "classifier", "input": "image", "classes": 2},
        },
        "losses": {
            "words": {
                "type": "cross_entropy",
                "prediction": "words",
                "target": "batch.text",
                "where": "batch.masked.hidden",
                "smoothing": 0.1,
            },
            "other": {"type": "cross_entropy", "prediction": "other", "target": 1},
        },
        "train": SGD,
    }
    return {**given, **changes}


def batch(there="some", garbage=np.nan, seed=0):
    r = np.random.default_rng(seed)
    share = {"none": 0.0, "some": 0.6, "all": 1.1}[there]
    here, seen = r.random(ROWS) < share, r.random(ROWS) < 0.6
    text = r.integers(0, WORDS, (ROWS, LENGTH)).astype("int32")
    mask = np.arange(LENGTH) < r.integers(1, LENGTH + 1, (ROWS, 1))
    image = r.normal(size=(ROWS, WIDTH)).astype("float32")
    image[~seen] = garbage
    text[~(mask & here[:, None])] = 1 if garbage else 0
    return {"text": Stream(text, mask, here), "image": Stream(image, presence=seen)}


def program(given=None, **mesh):
    return Program(fusekit.resolve(fusekit.experiment(**(given or sections()), mesh=mesh)))


def wanted(made, names=None):
    """The heads of words that nobody needs to make; the other has too few classes to care."""
    keys = deferrable(made.model, read_by(made.graph.losses, names), names)
    return {key.node for key in keys} - {"other"}


def biggest(made):
    """Elements of the largest array of reals in a step."""
    state, given = made.init(0), made._given(batch())
    jaxpr = jax.make_jaxpr(made._step)(state, given)
    outs = (out.aval for e in equations(jaxpr.jaxpr) for out in e.outvars)
    return max(out.size for out in outs if out.dtype == "float32")


def without(monkeypatch):
    monkeypatch.setattr(op, "MOST_LOGITS", 10**9)


@pytest.mark.parametrize(
    "mesh",
    often([{}, {"microbatches": 2}, {"layers": "scan", "remat": "full"}], [{}]),
    ids=lambda mesh: " ".join(mesh) or "plain",
)
def test_steps_are_those_of_logits(mesh, monkeypatch):
    given = sections()
    if "layers" in mesh:
        given["encoders"]["text"] = {**STACK, "input": "batch.masked", "depth": 2}
    patterns = ("none", "some", "all") if not mesh else ("some",)
    fused = program(given, **mesh)
    found = [trained(fused, [batch(there)]) for there in patterns]
    without(monkeypatch)
    plain = program(given, **mesh)
    for there, (state, (metrics,)) in zip(patterns, found, strict=True):
        due, (figures,) = trained(plain, [batch(there)])
        assert_close(metrics, figures, atol=1e-6, rtol=1e-6)
        assert distance(gradients(state), gradients(due)) < 1e-6
        assert figures["losses.words"] > 0 or there == "none"


def test_no_logits_are_in_the_step(monkeypatch):
    made = program()
    assert wanted(made) == {"words"}
    assert biggest(made) < ROWS * LENGTH * WORDS
    without(monkeypatch)
    assert biggest(program()) >= ROWS * LENGTH * WORDS


def test_contents_of_what_is_absent_change_nothing():
    made = program()
    for there in ("some", "none"):
        one, two = (trained(made, [batch(there, g)])[0] for g in (0.0, np.nan))
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.mark.parametrize(
    "reader",
    [
        {"type": "distillation", "prediction": "words", "target": "teacher.words"},
        {
            "type": "cross_entropy",
            "prediction": "words",
            "target": "batch.text",
            "soft": "teacher.words",
        },
    ],
    ids=lambda reader: reader["type"],
)
def test_whoever_else_reads_logits_has_them_made_for_all(reader, monkeypatch):
    given = sections()
    given["parts"] = {"teacher": {"of": ["words"], "weights": {"type": "ema", "decay": 0.9}}}
    given["losses"] = {**given["losses"], "more": reader}
    made = program(given)
    assert wanted(made) == set()
    assert wanted(made, ("words", "other")) == {"words"}
    found = trained(made, [batch()])[1]
    without(monkeypatch)
    assert_close(found[0], trained(program(given), [batch()])[1][0], atol=0)


def test_ports_of_the_values_take_values():
    given = sections()
    pooled = {"type": "cross_entropy", "prediction": "words.mean", "target": 3}
    given["losses"] = {**given["losses"], "pooled": pooled}
    assert wanted(program(given)) == set()


def test_evaluation_and_prediction_have_logits(monkeypatch):
    given = sections()
    given["metrics"] = {
        "right": {"type": "accuracy", "prediction": "words", "target": "batch.text"}
    }

    def outcome():
        made = program(given)
        state = made.init(0)
        assert wanted(made) == {"words"}  # a step reads no metrics
        answers = made.predict(state, batch())
        return jax.device_get((made.evaluate(state, batch()), answers))

    found = outcome()
    assert found[1]["words"].values.shape == (ROWS, LENGTH, WORDS)
    without(monkeypatch)
    for one, other in zip(*map(jax.tree.leaves, (found, outcome())), strict=True):
        np.testing.assert_array_equal(one, other)


def test_heads_say_what_they_leave(monkeypatch):
    seen = []

    def noted(*args):
        seen.append(Deferred(*args))
        return seen[-1]

    monkeypatch.setattr(_unmade, "Deferred", noted)
    made = program(components={"words": {"kernel": "reference"}})
    trained(made, [batch()])
    assert not seen  # the obvious form holds logits
    trained(program(), [batch()])
    assert {(one.node, one.axes) for one in seen} == {("words", ("embed", "vocab"))}


@pytest.mark.slow
def test_any_mesh_is_one_device():
    check_cube(fusekit.experiment(**sections()), batch())

"""A teacher's soft targets, alone and beside labels, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.conformance.cases import Case
from fusekit.conformance.run import failures
from fusekit.errors import WiringError
from fusekit.stream import Signature, Span, Stream, sequence, vector
from fusekit_modules.losses.cross_entropy import CrossEntropySpec
from fusekit_modules.losses.distillation import DistillationSpec
from tests.modules.losses.harness import gradient, inert, run, scalar

GRID = Signature((("height", 2), ("width", 3), ("channel", 3)))
MAP = Signature((("height", 2), ("width", 3)), "int", classes=3)


def softmax(z):
    exp = np.exp(z - z.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def soft(logits, teacher, temperature):
    q, p = softmax(teacher / temperature), softmax(logits / temperature)
    return -(temperature**2) * (q * np.log(p)).sum(-1)


def hard(logits, target, smoothing=0.0):
    nll = -np.log(softmax(logits))
    own = np.take_along_axis(nll, target[..., None], -1)[..., 0]
    return (1 - smoothing) * own + smoothing * nll.mean(-1)


def check(spec, inputs, streams, logits, valid, plain):
    """Value and gradient in float64; the teacher gets none, and what does not count is inert."""
    rows = np.ones(len(logits), bool) if valid.ndim > 1 else valid

    def loss(values):
        given = streams["prediction"].with_(values=values)
        return scalar(run(spec, inputs, {**streams, "prediction": given}, rows))

    gradient(loss, logits, lambda v: plain(v)[valid].mean())
    if valid.ndim == 1:
        inert(spec, inputs, streams, valid)
    teacher = "soft" if "soft" in streams else "target"

    def of_teacher(values):
        given = streams[teacher].with_(values=values)
        return scalar(run(spec, inputs, {**streams, teacher: given}, rows))

    grad = jax.jit(jax.grad(of_teacher))(streams[teacher].values)
    assert not np.asarray(grad).any()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_labels_and_a_teacher(temperature):
    rng = np.random.default_rng(0)
    logits, teacher, target = (
        rng.normal(size=(4, 3)),
        rng.normal(size=(4, 3)),
        np.array([0, 2, 1, 1]),
    )
    spec = CrossEntropySpec(
        prediction="head",
        target="batch.label",
        soft="teacher.head",
        soft_weight=0.3,
        temperature=temperature,
        smoothing=0.1,
    )
    inputs = {"prediction": vector(3), "target": Signature((), "int", classes=3), "soft": vector(3)}
    valid = np.array([True, False, True, True])
    with jax.enable_x64(True):
        streams = {"prediction": logits, "target": target, "soft": teacher}
        streams = {role: Stream(jnp.asarray(v)) for role, v in streams.items()}

        def plain(v):
            return 0.7 * hard(v, target, 0.1) + 0.3 * soft(v, teacher, temperature)

        check(spec, inputs, streams, logits, valid, plain)


def test_hidden_tokens_and_a_teacher():
    rng, shape = np.random.default_rng(1), (3, 4, 3)
    logits, teacher = rng.normal(size=shape), rng.normal(size=shape)
    target, hidden = rng.integers(0, 3, shape[:2]), rng.random(shape[:2]) < 0.5
    mask, known = rng.random(shape[:2]) < 0.7, rng.random(shape[:2]) < 0.7
    tokens = Signature((("time", 4),), "int", (Span("", 4),), padded=True, classes=3)
    inputs = {
        "prediction": sequence(4, 3, padded=True),
        "target": tokens,
        "soft": sequence(4, 3, padded=True),
        "where": tokens.with_(dtype="bool", classes=None),
    }
    spec = CrossEntropySpec(
        prediction="words",
        target="batch.text",
        soft="teacher.words",
        where="batch.masked.hidden",
    )
    valid = mask & known & hidden
    teacher_here = np.where(known[..., None], teacher, np.nan)
    with jax.enable_x64(True):
        streams = {
            "prediction": Stream(jnp.asarray(logits), jnp.asarray(mask)),
            "target": Stream(jnp.asarray(target), jnp.asarray(mask)),
            "soft": Stream(jnp.asarray(teacher_here), jnp.asarray(known)),
            "where": Stream(jnp.asarray(hidden), jnp.asarray(mask)),
        }

        def plain(v):
            return 0.6 * hard(v, target) + 0.4 * soft(v, teacher, 1.0)

        check(spec, inputs, streams, logits, valid, plain)


def test_a_teacher_without_labels_on_a_grid():
    rng, shape = np.random.default_rng(2), (2, 2, 3, 3)
    logits, teacher = rng.normal(size=shape), rng.normal(size=shape)
    where = rng.random(shape[:-1]) < 0.6
    spec = DistillationSpec(
        prediction="map",
        target="teacher.map",
        where="batch.known",
        temperature=2.0,
    )
    inputs = {"prediction": GRID, "target": GRID, "where": MAP.with_(dtype="bool", classes=None)}
    with jax.enable_x64(True):
        streams = {"prediction": logits, "target": teacher, "where": where}
        streams = {role: Stream(jnp.asarray(v)) for role, v in streams.items()}

        def plain(v):
            return soft(v, teacher, 2.0) - soft(teacher, teacher, 2.0)

        check(spec, inputs, streams, logits, where, plain)
        same = {**streams, "prediction": streams["target"]}
        np.testing.assert_allclose(run(spec, inputs, same).total, 0.0, atol=1e-12)


def test_classes_of_a_grid():
    rng, shape = np.random.default_rng(3), (3, 2, 3, 3)
    logits, target = rng.normal(size=shape), rng.integers(0, 3, shape[:-1])
    spec = CrossEntropySpec(prediction="map", target="batch.map", smoothing=0.2)
    frames = np.array([[True, False], [True, True], [False, False]])
    valid = np.broadcast_to(frames[..., None], shape[:-1])
    with jax.enable_x64(True):
        given = Stream(jnp.asarray(logits), jnp.asarray(frames))
        streams = {"prediction": given, "target": Stream(jnp.asarray(target))}
        inputs = {"prediction": GRID.with_(padded=True), "target": MAP}

        def loss(values):
            return scalar(run(spec, inputs, {**streams, "prediction": given.with_(values=values)}))

        gradient(loss, logits, lambda v: hard(v, target, 0.2)[valid].mean())


def test_it_obeys_the_laws():
    """The suite has no inputs for a teacher beside labels, so it is shown some."""
    spec = CrossEntropySpec(
        prediction="h",
        target="batch.y",
        soft="t.h",
        temperature=2.0,
    )
    head = sequence(6, 5, label="a", padded=True, optional=True)
    target = Signature((("time", 6),), "int", (Span("a", 6),), True, True, classes=5)
    case = Case(spec, {"prediction": head, "target": target, "soft": head}, "a teacher")
    assert not list(failures(case))


@pytest.mark.parametrize(
    ("fields", "inputs", "words"),
    [
        ({"soft": "t.h"}, {"soft": vector(4)}, "do not go with the prediction"),
        ({"soft": "t.h", "class_weights": [1, 1, 1]}, {"soft": vector(3)}, "a teacher names none"),
    ],
)
def test_misfits(fields, inputs, words):
    spec = CrossEntropySpec(prediction="h", target=1, **fields)
    with pytest.raises(WiringError, match=words):
        spec.check({"prediction": vector(3), **inputs})
    with pytest.raises(WiringError, match="sizes"):
        CrossEntropySpec(prediction="h", target="batch.y").check(
            {"prediction": GRID, "target": MAP.with_(sizes=(("height", 3), ("width", 2)))}
        )
    with pytest.raises(WiringError, match="no logits"):
        DistillationSpec(prediction="h", target="t.h").check(
            {"prediction": vector(1), "target": vector(1)}
        )

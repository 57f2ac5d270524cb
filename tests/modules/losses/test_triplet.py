import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream, vector
from fusekit_modules.losses.triplet import TripletSpec
from tests.modules.losses.harness import fast, gradient, inert, run, scalar

ROWS = np.array([True, True, False, True, True, True])
KEYS = np.array([0, 1, 0, 1, 2, 3])


def distance(a, b, kind):
    if kind == "squared":
        return ((a - b) ** 2).sum()
    return 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def one_row(near, far, negatives, margin):
    if negatives == "all":
        return np.mean([max(0.0, margin + near - d) for d in far])
    beyond = [d for d in far if d > near]
    chosen = min(far) if negatives == "hardest" else min(beyond) if beyond else max(far)
    return max(0.0, margin + near - chosen)


@pytest.mark.parametrize(
    ("negatives", "kind", "direction", "keyed"),
    [
        ("hardest", "cosine", "both", False),
        ("semi_hard", "squared", "first", True),
        ("semi_hard", "cosine", "both", True),
        ("all", "squared", "both", True),
    ],
)
def test_against_loops(negatives, kind, direction, keyed):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    index = np.flatnonzero(ROWS)
    spec = TripletSpec(
        inputs=["a", "b"],
        positives="batch.key" if keyed else None,
        margin=0.8,
        negatives=negatives,
        distance=kind,
        direction=direction,
    )
    keys = KEYS if keyed else np.arange(6)

    def plain(values):
        found = []
        for ask, among in [(values, b), (b, values)][: 1 + (direction == "both")]:
            for i in index:
                far = [distance(ask[i], among[j], kind) for j in index if keys[j] != keys[i]]
                near = distance(ask[i], among[i], kind)
                found.append(one_row(near, far, negatives, 0.8))
        return np.mean(found)

    with jax.enable_x64(True):
        streams = {"a": Stream(jnp.asarray(a)), "b": Stream(jnp.asarray(b))}
        inputs = {"a": vector(3), "b": vector(3)}
        if keyed:
            streams["positives"] = Stream(jnp.asarray(KEYS))
            inputs["positives"] = Signature((), "int", classes=4)

        def loss(values):
            return scalar(run(spec, inputs, {**streams, "a": Stream(values)}, ROWS))

        gradient(loss, a, plain)
        inert(spec, inputs, streams, ROWS, role="a")


def test_a_third_input_is_the_negative():
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(3, 4, 3))
    spec = TripletSpec(inputs=["a", "b", "c"], margin=0.5)
    with jax.enable_x64(True):
        streams = {n: Stream(jnp.asarray(v)) for n, v in zip("abc", (a, b, c), strict=True)}
        out = fast(spec, {n: vector(3) for n in "abc"}, streams, [True, True, False, True])
        each = [
            max(0, 0.5 + distance(x, y, "cosine") - distance(x, z, "cosine"))
            for x, y, z in zip(a, b, c, strict=True)
        ]
        each[2] = 0
        np.testing.assert_allclose(out.total, each, rtol=1e-10)
        np.testing.assert_array_equal(out.weight, [1, 1, 0, 1])


def test_rows_without_a_negative_do_not_count():
    """All of one key, one row alone, none."""
    spec = TripletSpec(inputs=["a", "b"], positives="batch.key", negatives="semi_hard")
    inputs = {"a": vector(2), "b": vector(2), "positives": Signature((), "int", classes=2)}
    rng = np.random.default_rng(2)
    streams = {n: Stream(jnp.asarray(rng.normal(size=(3, 2)))) for n in "ab"}
    for keys, rows in (([1, 1, 1], [1, 1, 1]), ([0, 1, 0], [1, 0, 1]), ([0, 1, 0], [0, 0, 0])):
        given = {**streams, "positives": Stream(jnp.asarray(keys))}
        out = fast(spec, inputs, given, np.asarray(rows, bool))
        np.testing.assert_array_equal(out.total, np.zeros(3))
        np.testing.assert_array_equal(out.weight, np.zeros(3))


def test_misfits():
    with pytest.raises(WiringError, match="number of inputs"):
        TripletSpec(inputs=["a"]).check({"a": vector(2)})
    with pytest.raises(WiringError, match="differ in embed"):
        TripletSpec(inputs=["a", "b"]).check({"a": vector(2), "b": vector(3)})

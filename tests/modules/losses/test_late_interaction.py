"""Contrast by MaxSim, one pair of rows and one token at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fusekit
from fusekit.conformance.cases import Case
from fusekit.conformance.run import failures
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.graph.graph import resolve
from fusekit.stream import Signature, Stream, sequence, vector
from fusekit_modules.losses.late_interaction import LateInteractionLossSpec
from tests.modules.losses.harness import GARBAGE, gradient, inert, run, scalar

TWO = {
    "q": sequence(3, 4, padded=True),
    "a": sequence(5, 4, padded=True),
}  # not in order of letters
ROWS = np.array([True, False, True, True, True])
MASKS = {
    "q": np.array([[1, 1, 1], [1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool),
    "a": np.array([[1, 1, 1, 0, 0], [1] * 5, [0, 1, 1, 0, 1], [1] * 5, [1] * 5], bool),
}
COUNTED = (0, 2, 3)
"""Of the rows that count, those whose sequences both have tokens."""
KEY = np.array([4, 4, 7, 4, 7])


def spec(**fields):
    return LateInteractionLossSpec(**{"inputs": ["q", "a"], **fields})


def drawn(dtype="float64"):
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=(5, TWO[name].length, 4)).astype(dtype) for name in TWO}


def streams_of(values):
    return {n: Stream(jnp.asarray(v), jnp.asarray(MASKS[n])) for n, v in values.items()}


def similarity(values, i, j, mean):
    """Of query i and item j."""
    total, count = 0.0, 0
    for x in np.asarray(values["q"][i], "float64")[MASKS["q"][i]]:
        tokens = np.asarray(values["a"][j], "float64")[MASKS["a"][j]]
        total += max(x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in tokens)
        count += 1
    return total / count if mean else total


def reference(values, temperature, *, mean=False, both=True, keys=None):
    table = {(i, j): similarity(values, i, j, mean) / temperature for i in COUNTED for j in COUNTED}
    found = []
    for i in COUNTED:
        right = [j for j in COUNTED if (j == i if keys is None else keys[j] == keys[i])]
        rows = [{j: table[i, j] for j in COUNTED}, {j: table[j, i] for j in COUNTED}]
        for scores in rows if both else rows[:1]:
            total = np.log(sum(np.exp(s) for s in scores.values()))
            found.append(np.mean([total - scores[j] for j in right]))
    return float(np.mean(found))


@pytest.mark.parametrize("role", ["q", "a"])
@pytest.mark.parametrize(
    ("reduce", "direction", "keys"),
    [("sum", "both", None), ("mean", "first", None), ("mean", "both", KEY)],
)
def test_against_loops(role, reduce, direction, keys):
    values = drawn()
    fields = {"reduce": reduce, "direction": direction, "temperature": 0.3, "learn": False}
    chosen = spec(**fields, **({} if keys is None else {"positives": "batch.key"}))
    inputs = TWO if keys is None else {**TWO, "positives": Signature((), "int", classes=9)}
    with jax.enable_x64(True):
        streams = streams_of(values)
        if keys is not None:
            streams["positives"] = Stream(jnp.asarray(keys))

        def loss(given):
            changed = {**streams, role: streams[role].with_(values=given)}
            return scalar(run(chosen, inputs, changed, ROWS))

        def plain(given):
            settings = {"mean": reduce == "mean", "both": direction == "both", "keys": keys}
            return reference({**values, role: given}, 0.3, **settings)

        grad = gradient(loss, values[role], plain)
        assert not np.any(grad[~MASKS[role]])
        assert not np.any(grad[[1, 4]])
        inert(chosen, inputs, streams, ROWS, role=role)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-5)])
def test_in_narrower_types(dtype, tolerance):
    """Of numbers in bfloat16, too, similarities are computed in float32."""
    narrow = {n: jnp.asarray(v, dtype) for n, v in drawn().items()}
    out = run(spec(temperature=0.2), TWO, streams_of(narrow), ROWS)
    assert out.total.dtype == jnp.float32
    np.testing.assert_array_equal(out.weight, [1, 0, 1, 1, 0])
    exact = {n: np.asarray(v.astype("float32"), "float64") for n, v in narrow.items()}
    np.testing.assert_allclose(scalar(out), reference(exact, 0.2), rtol=tolerance)


def test_the_temperature_learns():
    values = drawn()
    with jax.enable_x64(True):
        module = spec(temperature=0.5).build(TWO, rngs=nnx.Rngs(0))
        graph, _ = nnx.split(module)

        def loss(scale):
            call = nnx.merge(graph, nnx.State({"scale": scale}))
            return scalar(call(streams_of(values), rows=jnp.asarray(ROWS), context=Context()))

        gradient(loss, -np.log(np.asarray(0.5)), lambda s: reference(values, np.exp(-s)))


def test_padding_is_not_read():
    values = drawn("float32")

    def outcome(garbage):
        filled = {n: np.where(MASKS[n][..., None], v, garbage) for n, v in values.items()}

        def loss(given):
            streams = {n: Stream(v, jnp.asarray(MASKS[n])) for n, v in given.items()}
            return scalar(run(spec(), TWO, streams, ROWS))

        return jax.jit(jax.value_and_grad(loss))({n: jnp.asarray(v) for n, v in filled.items()})

    plain = jax.tree.leaves(outcome(0.0))
    for garbage in GARBAGE:
        for first, second in zip(plain, jax.tree.leaves(outcome(garbage)), strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("settings", LateInteractionLossSpec.examples())
@pytest.mark.parametrize("padded", [True, False])
def test_laws(settings, padded):
    inputs = {f"m{i}": sequence(6, 8, label="a", padded=padded, optional=padded) for i in (0, 1)}
    case = Case(LateInteractionLossSpec(**settings), inputs, "sequences")
    assert not list(failures(case))


def test_which_label_answers_is_a_cross_entropy():
    """CLaMR's contrast of the modalities of an item needs no loss of its own."""
    experiment = fusekit.experiment(
        modalities={
            "text": {"type": "tokens", "vocab": 6, "length": 3},
            "image": {"type": "image", "shape": [4, 4, 1], "optional": True},
            "sound": {"type": "spectrogram", "shape": [4, 4], "optional": True},
            "source": {"type": "label", "classes": 2},
        },
        encoders={
            "text": {"type": "embed", "width": 8},
            "image": {"type": "patches", "patch": [2, 2], "width": 8},
            "sound": {"type": "patches", "patch": [2, 2], "width": 8},
        },
        fusion={
            "shown": {"type": "concat", "inputs": ["image", "sound"], "axis": "sequence"},
            "near": {"type": "late_interaction", "inputs": ["text", "shown"], "reduce": "mean"},
        },
        losses={
            "align": {"type": "late_interaction", "inputs": ["text", "shown"]},
            "which": {
                "type": "cross_entropy",
                "prediction": "near.by_label",
                "target": "batch.source",
            },
        },
    )
    assert sorted(resolve(experiment).losses) == ["align", "which"]


def test_misfits():
    with pytest.raises(WiringError, match="number of inputs"):
        spec().check({name: sequence(4, 3) for name in "abc"})
    with pytest.raises(WiringError, match="differ in embed"):
        spec().check({"q": sequence(4, 3), "a": sequence(4, 5)})
    with pytest.raises(WiringError, match="where a sequence is due"):
        spec().check({"q": sequence(4, 3), "a": vector(3)})
    with pytest.raises(WiringError, match="positives is no key"):
        spec(positives="batch.x").check({**TWO, "positives": vector(3)})

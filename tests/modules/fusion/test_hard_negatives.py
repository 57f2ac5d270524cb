"""Other rows that resemble a row: who may be taken, how often, and what comes along."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fusekit.conformance.cases import KINDS, Case, varied
from fusekit.conformance.laws import quick
from fusekit.conformance.run import failures
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.standalone import standalone
from fusekit.stream import Signature, Span, Stream, sequence, vector
from fusekit_modules.fusion.hard_negatives import HardNegativesSpec

SPANS = (Span("text", 3),)
INPUTS = {
    "a": vector(3, optional=True),
    "b": vector(3, optional=True),
    "pick": sequence(3, 2, spans=SPANS, padded=True, optional=True),
    "positives": Signature((), "int", optional=True, classes=4),
}
A_HERE = np.array([1, 1, 1, 1, 0, 1], bool)
B_HERE = np.array([1, 1, 1, 0, 1, 1], bool)
KEYS = np.array([0, 1, 0, 2, 3, 1])


def spec(**fields):
    return HardNegativesSpec(
        **{"inputs": ["a", "b"], "pick": "text", "positives": "batch.key", **fields}
    )


def module(chosen, inputs=INPUTS):
    return standalone(chosen, inputs, rngs=None)


def streams(garbage=0.0, seed=0):
    r = np.random.default_rng(seed)
    a, b, text = r.normal(size=(6, 3)), r.normal(size=(6, 3)), r.normal(size=(6, 3, 2))
    mask = r.random((6, 3)) < 0.7
    text_here = np.array([1, 1, 1, 1, 1, 0], bool)
    a, b = np.where(A_HERE[:, None], a, garbage), np.where(B_HERE[:, None], b, garbage)
    text = np.where((mask & text_here[:, None])[..., None], text, garbage)
    known = np.ones(6, bool)
    order = r.integers(0, 9, (6, 3)).astype("int32")
    given = {
        "a": Stream(a.astype("float32"), None, A_HERE),
        "b": Stream(b.astype("float32"), None, B_HERE),
        "pick": Stream(text.astype("float32"), mask, text_here, position=order, spans=SPANS),
        "positives": Stream(KEYS, None, known),
    }
    return jax.tree.map(jnp.asarray, given)


def allowed(given):
    b, text = (np.asarray(given[role].presence) for role in ("b", "pick"))
    return np.array(
        [
            [A_HERE[i] and b[j] and text[j] and KEYS[i] != KEYS[j] for j in range(6)]
            for i in range(6)
        ]
    )


def similarities(given):
    a, b = (np.asarray(given[role].values, "float64") for role in "ab")
    length = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return a @ b.T / np.where(length > 0, length, 1)


def test_evaluation_takes_the_most_similar_that_may_be_taken():
    given, made = streams(), module(spec())
    out = quick(lambda s: made(s, context=Context()))(given)
    may = allowed(given)
    best = np.where(may, similarities(given), -np.inf).argmax(1)
    here = may.any(1)
    assert here.sum() == 5
    np.testing.assert_array_equal(out.presence, here)
    picked = given["pick"].clean()
    for name in ("values", "mask", "position"):
        expected, found = np.asarray(getattr(picked, name))[best], np.asarray(getattr(out, name))
        np.testing.assert_array_equal(found[here], expected[here], err_msg=name)
    assert not np.asarray(out.values)[~here].any()
    assert out.spans == SPANS
    signature = spec().infer(INPUTS)
    assert signature == INPUTS["pick"]


def test_training_draws_by_the_softmax_of_similarity():
    given, chosen = streams(), spec(temperature=0.6)
    numbers = jnp.arange(6.0)[:, None]
    given["pick"] = Stream(numbers, None, given["pick"].presence)
    made = module(chosen, {**INPUTS, "pick": vector(1, optional=True)})

    def draw(key):
        return made(given, context=Context(mode="train", key=key, path="it")).values[:, 0]

    count = 4000
    drawn = np.asarray(quick(jax.vmap(draw))(jax.random.split(jax.random.key(0), count)))
    may = allowed(given)
    weight = np.where(may, np.exp(similarities(given) / 0.6), 0)
    chance = weight / np.maximum(weight.sum(1, keepdims=True), 1e-9)
    for row in np.flatnonzero(may.any(1)):
        share = np.bincount(drawn[:, row].astype(int), minlength=6) / count
        np.testing.assert_allclose(share, chance[row], atol=4 * np.sqrt(0.25 / count))
        assert not share[~may[row]].any()


def test_gradients_pass_to_what_is_picked_and_none_to_similarities():
    given, made = streams(), module(spec())
    may = allowed(given)
    best = np.where(may, similarities(given), -np.inf).argmax(1)
    weights = np.random.default_rng(5).normal(size=(6, 3, 2)).astype("float32")

    def total(values):
        moved = {r: given[r].with_(values=v) for r, v in values.items()}
        return jnp.sum(weights * made({**given, **moved}, context=Context()).values)

    grads = quick(jax.grad(total))({role: given[role].values for role in ("a", "b", "pick")})
    assert not np.asarray(grads["a"]).any()
    assert not np.asarray(grads["b"]).any()
    expected = np.zeros((6, 3, 2))
    for row in np.flatnonzero(may.any(1)):
        expected[best[row]] += weights[row]
    valid = np.asarray(given["pick"].valid())[..., None]
    np.testing.assert_allclose(grads["pick"], np.where(valid, expected, 0), rtol=1e-5)


def test_what_is_absent_or_padded_changes_nothing():
    made = module(spec())
    context = Context(mode="train", key=jax.random.key(1), path="it")
    run = quick(lambda s: made(s, context=context))
    plain = run(streams())
    for garbage in (np.nan, np.inf, 1e30):
        for one, other in zip(
            jax.tree.leaves(plain), jax.tree.leaves(run(streams(garbage))), strict=True
        ):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", ["train", "evaluate"])
def test_rows_over_eight_devices_give_the_same(mode):
    r = np.random.default_rng(2)
    given = {role: Stream(jnp.asarray(r.normal(size=(16, 3)).astype("float32"))) for role in "ab"}
    given["pick"] = Stream(
        jnp.asarray(r.integers(0, 99, (16, 4))), jnp.asarray(r.random((16, 4)) < 0.5)
    )
    inputs = {"a": vector(3), "b": vector(3), "pick": KINDS["tokens"].with_(padded=True)}
    made = module(spec(positives=None), inputs)
    context = Context(mode=mode, key=jax.random.key(3), path="it")
    run = quick(lambda s: made(s, context=context))
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    spread = jax.device_put(given, NamedSharding(mesh, PartitionSpec("data")))
    for one, other in zip(jax.tree.leaves(run(given)), jax.tree.leaves(run(spread)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_batch_without_candidates_is_absent():
    """One row; and all rows of one key."""
    one = {role: Stream(jnp.ones((1, 3))) for role in "ab"}
    inputs = {"a": vector(3), "b": vector(3)}
    bare = module(spec(pick=None, positives=None), inputs)
    out = bare(one, context=Context())
    assert not np.asarray(out.presence).any()
    assert not np.asarray(out.values).any()
    given = streams()
    given["positives"] = given["positives"].with_(values=jnp.zeros(6, "int32"))
    assert not np.asarray(module(spec())(given, context=Context()).presence).any()


def test_it_obeys_the_laws_with_a_pick_and_keys():
    kinds = {"a": "vector", "b": "vector", "pick": "sequence", "positives": "class"}
    inputs = {role: dict(varied(KINDS[kind]))["missing"] for role, kind in kinds.items()}
    assert not list(failures(Case(spec(), inputs, "pick")))


def test_misfits():
    with pytest.raises(WiringError, match="number of inputs"):
        spec().infer({"a": vector(3), "pick": vector(2)})
    with pytest.raises(WiringError, match="differ in embed"):
        spec().infer({"a": vector(3), "b": vector(4)})
    with pytest.raises(WiringError, match="scalar is due"):
        spec().infer({"a": vector(3), "b": vector(3), "positives": vector(2)})

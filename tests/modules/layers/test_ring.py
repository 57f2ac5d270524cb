"""Attention round a ring of devices against float64 NumPy that holds all keys at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.layout import Layout
from fusekit_modules.layers import online_softmax
from fusekit_modules.layers.online_softmax import chunk_of
from fusekit_modules.layers.place import Place
from fusekit_modules.layers.ring_attention import ring_attention
from fusekit_modules.layers.sight import Sight
from tests.modules.layers.harness import TIGHT, check_gradients, float64

ROWS, HEADS, SIZE = 4, 2, 3
RINGS = {
    "4": {"sequence": 4},
    "2, rows and heads": {"data": 2, "sequence": 2, "tensor": 2},
}


def form(p, allowed):
    """Softmax over what each query may read; zeros for those that may read nothing."""
    key, value = (np.concatenate(p[name], axis=1) for name in ("key", "value"))
    found = np.zeros(p["query"].shape)
    for b, q, h in np.ndindex(*found.shape[:3]):
        seen = np.flatnonzero(allowed[b, q])
        if len(seen):
            scores = key[b, seen, h] @ p["query"][b, q, h] / np.sqrt(SIZE)
            weights = np.exp(scores - scores.max())
            found[b, q, h] = weights @ value[b, seen, h] / weights.sum()
    return found


def drawn(queries, keys, seed=0):
    """Queries, and keys and values of several sources, by name as `check_gradients` wants them."""
    rng = np.random.default_rng(seed)
    p = {"query": rng.normal(size=(ROWS, queries, HEADS, SIZE))}
    for name in ("key", "value"):
        for n, count in enumerate(keys):
            p[f"{name}.{n}"] = rng.normal(size=(ROWS, count, HEADS, SIZE))
    return p


def listed(p):
    many = {n: [a for path, a in p.items() if path.startswith(f"{n}.")] for n in ("key", "value")}
    return {"query": p["query"], **many}


def causal(q, k):
    return k["index"] <= q["index"]


def masks_of(kind, queries, keys):
    """Masks, and the same as an array `[b, q, k]`."""
    rng = np.random.default_rng(1)
    own, total = np.arange(queries), sum(keys)
    full = np.ones((ROWS, queries, total), bool)
    if kind == "none":
        return [], full
    valid = rng.random((ROWS, total)) < 0.7
    valid[1] = False
    if kind == "valid":
        return [jnp.asarray(valid)[:, None]], full & valid[:, None]
    if kind == "causal":
        tril = np.arange(total) <= own[:, None]
        sight = Sight(causal, {"index": own}, {"index": np.arange(total)})
        return [sight, jnp.asarray(valid)[:, None]], full & tril & valid[:, None]
    dense = rng.random((ROWS, queries, total)) < 0.5
    dense[2, : queries // 2] = False
    flat = rng.random((queries, total)) < 0.8
    group = rng.integers(0, 3, (ROWS, queries)), rng.integers(0, 3, (ROWS, total))
    sight = Sight(lambda q, k: q >= k, jnp.asarray(group[0]), jnp.asarray(group[1]))
    told = group[0][:, :, None] >= group[1][:, None, :]
    return [jnp.asarray(dense), jnp.asarray(flat), sight], dense & flat & told


def check(sizes, queries, keys, kind):
    place = Place.of(Layout.of(sizes), np.zeros((ROWS, queries, HEADS, SIZE)), keys)
    assert place is not None
    masks, allowed = masks_of(kind, queries, keys)

    def call(p):
        p = listed(p)
        return ring_attention(
            p["query"], list(zip(p["key"], p["value"], strict=True)), masks, place
        )

    p = drawn(queries, keys)
    with float64():
        got, some = jax.jit(call)({name: jnp.asarray(a) for name, a in p.items()})
    np.testing.assert_allclose(got, form(listed(p), allowed), **TIGHT)
    np.testing.assert_array_equal(some, allowed.any(axis=-1))
    check_gradients(lambda p: call(p)[0], lambda p: form(listed(p), allowed), p)


@pytest.mark.parametrize("kind", ["none", "valid", "causal", "dense"])
@pytest.mark.parametrize("ring", RINGS)
def test_values_and_gradients(ring, kind):
    check(RINGS[ring], 8, [8], kind)


def test_a_source_that_does_not_divide_is_read_where_the_queries_are():
    check(RINGS["4"], 8, [8, 3, 16], "dense")


@pytest.mark.slow
def test_what_is_long_but_does_not_divide_is_filled_up(monkeypatch):
    monkeypatch.setattr("fusekit_modules.layers.place.LEAST", 1)
    check(RINGS["4"], 7, [7, 3, 10], "dense")
    check(RINGS["4"], 7, [7], "none")


def test_blocks_are_taken_in_chunks(monkeypatch):
    chunks = lambda size: chunk_of(size, 2, 1)  # noqa: E731
    monkeypatch.setattr(online_softmax, "chunk_of", chunks)
    check(RINGS["2, rows and heads"], 8, [12, 6], "dense")


def test_a_chunk_divides_its_block():
    assert [chunk_of(n) for n in (1, 1024, 2048, 1536, 3000)] == [1, 1024, 1024, 768, 1000]
    # 2 x 1031, a prime: no chunk but 2, and so the whole block
    assert chunk_of(2062) == 2062


@pytest.mark.parametrize("kind", ["none", "dense"])
def test_few_queries_stay_whole_and_read_keys_where_they_are(kind):
    """More keys of a source on each of four devices than queries; a short source is read once."""
    check(RINGS["4"], 3, [16, 3], kind)


def test_where_tokens_are_not_split_there_is_no_ring():
    query, split = np.zeros((ROWS, 8, HEADS, SIZE)), Layout.of({"sequence": 4})
    assert Place.of(None, query, [8]) is None
    assert Place.of(Layout.of({"data": 4}), query, [8]) is None
    assert Place.of(split, query, [7]) is None
    assert Place.of(split, query[:, :7], [8]) is None
    whole = Layout.of({"sequence": 4}, activations={"time": None})
    assert Place.of(whole, query, [8]) is None


def test_queries_turn_unless_they_are_few():
    layout = Layout.of({"sequence": 4})
    for queries, keys, turns in ((8, 8, True), (8, 28, True), (8, 32, False), (7, 32, False)):
        place = Place.of(layout, np.zeros((ROWS, queries, HEADS, SIZE)), [3, keys])
        assert place is not None
        assert place.turns == turns


def test_heads_and_rows_that_do_not_divide_are_whole():
    layout = Layout.of({"data": 2, "sequence": 2, "tensor": 2})
    assert Place.of(layout, np.zeros((4, 8, 2, 3)), [8]) == Place(
        layout.mesh, "data", "sequence", "tensor"
    )
    assert Place.of(layout, np.zeros((3, 8, 3, 3)), [8]) == Place(
        layout.mesh, None, "sequence", None
    )


def test_tokens_over_two_axes_of_the_mesh():
    layout = Layout.of(
        {"fsdp": 2, "sequence": 2}, activations={"batch": None, "time": ("fsdp", "sequence")}
    )
    place = Place.of(layout, np.zeros((ROWS, 8, HEADS, SIZE)), [8])
    assert place is not None
    assert place.devices == 4
    p = drawn(8, [8])
    with float64():
        given = [jnp.asarray(p[name]) for name in ("query", "key.0", "value.0")]
        got, _ = jax.jit(lambda q, k, v: ring_attention(q, [(k, v)], [], place))(*given)
    np.testing.assert_allclose(got, form(listed(p), np.ones((ROWS, 8, 8), bool)), **TIGHT)


def test_contents_that_are_masked_change_nothing():
    place = Place.of(Layout.of({"sequence": 4}), np.zeros((ROWS, 8, HEADS, SIZE)), [8])
    assert place is not None
    valid = np.random.default_rng(0).random((ROWS, 8)) < 0.5
    p = {name: a.astype("float32") for name, a in drawn(8, [8]).items()}

    @jax.jit
    def call(query, key, value):
        def mixed(query, key, value):
            masks = [jnp.asarray(valid)[:, None]]
            return ring_attention(query, [(key, value)], masks, place)[0]

        out, pull = jax.vjp(mixed, query, key, value)
        return out, pull(jnp.ones_like(out))

    full = valid[..., None, None]
    plain = call(p["query"], p["key.0"], p["value.0"])
    other = call(*(np.where(full, p[n], 7e3) if "." in n else p[n] for n in p))
    np.testing.assert_array_equal(plain[0], other[0])
    for grad in (plain[1][1], plain[1][2]):
        np.testing.assert_array_equal(np.where(full, 0.0, grad), 0.0)

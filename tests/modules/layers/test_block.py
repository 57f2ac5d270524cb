"""The block against NumPy: values, gradients, masks, presence, and how it may be transformed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.stream import Span, Stream
from fusekit_modules.layers.block import Block, causal
from tests.modules.layers.harness import STILL, TIGHT, check_gradients, float64, randomised
from tests.reference import transformer as reference

RNG = np.random.default_rng(0)
SPANS = (Span("a", 2), Span("b", 3))
MASK = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 1]], bool)
PRESENCE = np.array([True, False, True])


def make(**settings):
    return randomised(Block(4, 2, hidden=6, rngs=nnx.Rngs(0), **settings))


BUILD, PARAMS = make()
X = RNG.normal(size=(3, 5, 4))


def stream(x, **given) -> Stream:
    return Stream(jnp.asarray(x), spans=SPANS, **given)


@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients(masked):
    p = {**PARAMS, "x": X}
    mask = jnp.asarray(MASK) if masked else None

    def f(p):
        values = BUILD(p)(stream(p["x"], mask=mask), context=STILL).stream.values
        return jnp.where(MASK[..., None], values, 0) if masked else values

    def g(p):
        out = np.zeros_like(p["x"])
        for i, x in enumerate(p["x"]):
            rows = MASK[i] if masked else np.ones(5, bool)
            out[i, rows] = reference.block(p, "", x[rows])
        return out

    with float64():
        np.testing.assert_allclose(f(p), g(p), **TIGHT)
    check_gradients(f, g, p)


def test_absent_samples_change_nothing_and_stay_finite():
    with float64():
        given = stream(X, presence=jnp.asarray(PRESENCE))
        out = BUILD(PARAMS)(given, context=STILL).stream
    assert np.all(np.isfinite(out.values))
    for i in np.flatnonzero(PRESENCE):
        np.testing.assert_allclose(out.values[i], reference.block(PARAMS, "", X[i]), **TIGHT)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_structure_and_dtype_are_kept(dtype):
    module = Block(4, 2, hidden=6, rngs=nnx.Rngs(0))
    full = stream(
        X.astype(dtype),
        mask=jnp.asarray(MASK),
        presence=jnp.asarray(PRESENCE),
        item=jnp.zeros((5,), "int32"),
        position=jnp.zeros((3, 5), "int32"),
    )
    for given in (full, stream(X.astype(dtype))):
        out = module(given, context=Context()).stream
        assert jax.tree.structure(out) == jax.tree.structure(given)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), out) == jax.tree.map(
            lambda a: (a.shape, a.dtype), given
        )


def test_causal_readouts_read_all_and_are_not_read():
    build, p = make(causal=True, readouts=1)
    with float64():
        out = build(p)(stream(X), context=STILL).stream.values
    for i, x in enumerate(X):
        normal = reference.norm(p, "attention_norm", x)
        mixed = x + np.stack(
            [
                reference.attention(
                    p, "attention", normal[q : q + 1], normal if q == 0 else normal[1 : q + 1]
                )[0]
                for q in range(5)
            ]
        )
        want = mixed + reference.mlp(p, "mlp", reference.norm(p, "mlp_norm", mixed))
        np.testing.assert_allclose(out[i], want, **TIGHT)


def test_causal_mask_by_hand():
    want = [
        [1, 1, 1, 1, 1],
        [0, 1, 0, 1, 1],
        [0, 1, 1, 1, 1],
        [0, 0, 0, 1, 1],
    ]
    np.testing.assert_array_equal(causal(3, 1, 1, 1).whole(), np.array(want, bool))


def test_scan_vmap_and_checkpoint_agree_with_a_loop():
    builds = [make() for _ in range(2)]
    trees = [{k: v * (1 + 0.1 * i) for k, v in p.items()} for i, (_, p) in enumerate(builds)]
    context = Context("train", jax.random.key(0), dtype=jnp.float64)
    build = randomised(
        Block(4, 2, hidden=6, depth=2, dropout=0.3, drop_path=0.5, rngs=nnx.Rngs(0))
    )[0]

    def layer(p, s, index):
        return build(p)(s, context=context.at("x", index)).stream

    with float64():
        given = stream(X, mask=jnp.asarray(MASK), presence=jnp.asarray(PRESENCE))
        stacked = jax.tree.map(lambda *a: jnp.stack(a), *trees)
        loop = given
        for index, p in enumerate(trees):
            loop = layer(p, loop, index)

        def body(carry, xs):
            p, index = xs
            return jax.checkpoint(layer)(p, carry, index), None

        scanned, _ = jax.jit(lambda p, s: jax.lax.scan(body, s, (p, jnp.arange(2))))(stacked, given)
        np.testing.assert_allclose(scanned.values, loop.values, **TIGHT)
        mapped = jax.vmap(partial(layer, index=0), in_axes=(0, None))(stacked, given)
        for index, p in enumerate(trees):
            np.testing.assert_allclose(mapped.values[index], layer(p, given, 0).values, **TIGHT)


def test_every_parameter_has_axes_and_its_path():
    state = nnx.to_flat_state(nnx.state(Block(4, 2, hidden=6, rngs=nnx.Rngs(0))))
    paths = {".".join(map(str, path)): leaf for path, leaf in state}
    assert paths["attention.query.kernel"].get_metadata()["axes"] == ("embed", "heads", "head_dim")
    assert paths["attention.out.kernel"].get_metadata()["axes"] == ("heads", "head_dim", "embed")
    assert paths["mlp.up.kernel"].get_metadata()["axes"] == ("embed", "mlp")
    assert all(len(leaf.get_metadata()["axes"]) == leaf.ndim for leaf in paths.values())

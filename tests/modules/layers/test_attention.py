"""Attention against a NumPy form that leaves out what is masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Collector, Context
from fusekit.errors import FusekitError
from fusekit.stream import Stream
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.dot_product import dot_product, masked_softmax
from fusekit_modules.layers.rotary import rotate
from tests.modules.layers.harness import STILL, TIGHT, check_gradients, float64, randomised
from tests.reference import transformer as reference

RNG = np.random.default_rng(0)
BUILD, PARAMS = randomised(Attention(6, 2, source_width=4, rngs=nnx.Rngs(0)))
MASK = np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)
PRESENCE = np.array([True, True, False])
RULE = np.tril(np.ones((4, 5), bool), 1)


def inputs() -> dict[str, np.ndarray]:
    return {**PARAMS, "x": RNG.normal(size=(3, 4, 6)), "y": RNG.normal(size=(3, 5, 4))}


def form(p, mask):
    """Row by row, over the keys that the row may read."""
    named = {f"a.{name}": array for name, array in p.items()}
    rows = []
    for x, y, allowed in zip(p["x"], p["y"], mask, strict=True):
        rows.append(
            [reference.attention(named, "a", x[i : i + 1], y[allowed[i]])[0] for i in range(len(x))]
        )
    return np.array(rows)


def call(p, *, mask=None, presence=None, rules=()):
    keys = Stream(p["y"], mask=mask, presence=presence)
    return BUILD(p)(Stream(p["x"]), keys, masks=rules, context=STILL)


@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients(masked):
    p = inputs()
    given = (
        {"mask": jnp.asarray(MASK), "presence": jnp.asarray(PRESENCE), "rules": [jnp.asarray(RULE)]}
        if masked
        else {}
    )
    allowed = np.broadcast_to(RULE, (3, 4, 5)) & MASK[:, None] & PRESENCE[:, None, None]
    allowed = allowed if masked else np.ones((3, 4, 5), bool)
    with float64():
        got = call({k: jnp.asarray(v) for k, v in p.items()}, **given)
    np.testing.assert_allclose(got, form(p, allowed), **TIGHT)
    check_gradients(lambda p: call(p, **given), lambda p: form(p, allowed), p)


def test_rows_that_read_nothing_give_zeros_and_finite_gradients():
    p, nothing = inputs(), jnp.zeros((3, 5), bool)
    with float64():
        np.testing.assert_array_equal(call(p, mask=nothing), np.zeros((3, 4, 6)))
        grads = jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(call(p, mask=nothing) + 1))))(p)
    for name, grad in grads.items():
        np.testing.assert_array_equal(grad, np.zeros(grad.shape), err_msg=name)


def test_masked_softmax_of_huge_scores():
    scores = jnp.array([[1e30, -1e30, 3.0], [-3e38, -3e38, 3e38], [5.0, 6.0, 7.0]])
    mask = jnp.array([[False, True, True], [True, True, False], [False] * 3])
    want = [[0.0, 0.0, 1.0], [0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_array_equal(masked_softmax(scores, mask), want)
    grad = jax.grad(lambda s: jnp.sum(masked_softmax(s, mask) * jnp.arange(3.0)))(scores)
    np.testing.assert_allclose(grad, [[0, 0, 0], [-0.25, 0.25, 0], [0, 0, 0]], atol=1e-7)


def test_half_precision_scores_are_wide():
    attention = Attention(6, 2, rngs=nnx.Rngs(0))
    context = Context(collector=Collector(("attention",)))
    out = attention(Stream(jnp.ones((1, 3, 6), jnp.bfloat16)), context=context)
    assert out.dtype == jnp.bfloat16
    (weights,) = context.collector.found["", "attention"]
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, np.full((1, 2, 3, 3), 1 / 3), rtol=1e-6)


def test_half_precision_scores_are_never_rounded():
    """Large random scores: a score rounded to bfloat16 would be off by up to 1/8."""
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 9, 2, 64)) * 2, jnp.bfloat16) for _ in range(3))
    mixed, weights = dot_product(q, k, v)
    wide_q, wide_k, wide_v = (np.asarray(x, "float64") for x in (q, k, v))
    scores = np.einsum("bqhk,bnhk->bhqn", wide_q, wide_k) / 8
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    want = exp / exp.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights, want, atol=1e-5)
    out = np.einsum("bhqn,bnhk->bqhk", want, wide_v)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(mixed, "float64"), out, atol=2**-8 * np.abs(v).max() * 2)


def test_keys_have_no_bias():
    assert sorted(name for name in PARAMS if name.startswith("key")) == ["key.kernel"]


def test_rotation_by_hand_and_relative():
    x, y = RNG.normal(size=(2, 1, 4, 2, 6))
    at = np.array([0, 1, 5, 9])
    with float64():
        turned = np.asarray(rotate(jnp.asarray(x), jnp.asarray(at)))
        other = np.asarray(rotate(jnp.asarray(y), jnp.asarray(at)))
        later = [np.asarray(rotate(jnp.asarray(z), jnp.asarray(at + 7))) for z in (x, y)]
    angles = at[:, None] / 10000.0 ** (np.arange(3) / 3)
    pairs = (x[..., :3] + 1j * x[..., 3:]) * np.exp(1j * angles)[:, None]
    np.testing.assert_allclose(turned, np.concatenate([pairs.real, pairs.imag], -1), **TIGHT)
    scores = np.einsum("bqhk,bnhk->bhqn", turned, other)
    np.testing.assert_allclose(np.einsum("bqhk,bnhk->bhqn", *later), scores, **TIGHT)


def test_keys_of_other_heads_or_widths_are_refused():
    attention, other = Attention(6, 2, rngs=nnx.Rngs(0)), Attention(6, 3, rngs=nnx.Rngs(0))
    stream = Stream(jnp.ones((1, 3, 6)))
    with pytest.raises(FusekitError, match="3 heads of size 2 meet queries of 2 heads of size 3"):
        attention.read(attention.queries(stream), [other.keys_values(stream)], context=STILL)
    with pytest.raises(FusekitError, match="width 6, not 5"):
        attention(stream, Stream(jnp.ones((1, 3, 5))), context=STILL)

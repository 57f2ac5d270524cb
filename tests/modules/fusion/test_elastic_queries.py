"""Elastic queries against float64 NumPy: a prefix is the same tokens, fewer of them."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream, sequence
from fusekit_modules.fusion.elastic_queries import ElasticQueriesSpec
from tests.modules.fusion.harness import QUICK, check
from tests.reference.transformer import attention, mlp, norm

SMALL = {"queries": 5, "heads": 2, "hidden": 3}
GIVEN = sequence(4, 4, label="m0", padded=True)


def read(p, x, count, depth):
    """Query by query: each reads x alone."""
    out = np.zeros((len(p["latents.tokens"]), x.shape[1]))
    for number in range(count):
        z = p["latents.tokens"][number : number + 1]
        for layer in range(depth):
            name = f"layers.{layer}"
            seen = norm(p, f"{name}.source_norm", x)
            z = z + attention(p, f"{name}.attention", norm(p, f"{name}.norm", z), seen)
            z = z + mlp(p, f"{name}.mlp", norm(p, f"{name}.mlp_norm", z))
        out[number] = norm(p, "norm", z)[0]
    return out


def test_evaluation_uses_a_prefix():
    spec = ElasticQueriesSpec(inputs=["m0"], tokens=2, depth=2, **SMALL)  # pyright: ignore
    check(spec, [GIVEN], lambda p, xs: read(p, xs[0], 2, 2))


def test_training_draws_a_length_for_the_whole_batch():
    """And with `cut` there are the first tokens, and no others."""
    given = {"m0": sequence(4, 4, label="m0")}
    values = np.random.default_rng(0).normal(size=(2, 4, 4)).astype("float32")
    stream = Stream(values, spans=GIVEN.spans)

    def built(**fields):
        spec = ElasticQueriesSpec(inputs=["m0"], **SMALL, **fields)  # pyright: ignore
        return spec, spec.build(given, rngs=nnx.Rngs(0))

    spec, module = built(lengths=(1, 3, 4))
    short, cut = built(tokens=2, cut=True)

    @partial(jax.jit, compiler_options=QUICK)
    def both():
        return tuple(m({"m0": stream}, context=Context()) for m in (module, cut))

    @partial(jax.jit, compiler_options=QUICK)
    def train(key):
        return module({"m0": stream}, context=Context(mode="train", key=key))

    whole, first = both()
    assert spec.infer(given).padded
    assert not short.infer(given).padded
    assert np.all(whole.mask)
    assert first.mask is None
    np.testing.assert_allclose(first.values, whole.values[:, :2], atol=1e-5)
    seen = set()
    for seed in range(20):
        out = train(jax.random.key(seed))
        count = int(out.mask[0].sum())
        np.testing.assert_array_equal(out.mask, [[n < count for n in range(5)]] * 2)
        np.testing.assert_allclose(out.values[:, :count], whole.values[:, :count], atol=1e-5)
        seen.add(count)
    assert seen == {1, 3, 4}


def test_refuses():
    with pytest.raises(WiringError, match="fewer queries"):
        ElasticQueriesSpec(queries=2, tokens=3).infer({"a": GIVEN})
    with pytest.raises(WiringError, match="fewer queries"):
        ElasticQueriesSpec(queries=2, lengths=(1, 3)).infer({"a": GIVEN})

"""The Perceiver resampler against float64 NumPy."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Span, Stream, sequence
from fusekit_modules.fusion.resampler import ResamplerSpec
from tests.modules.fusion.harness import QUICK, check
from tests.reference.transformer import attention, mlp, norm

SMALL = {"tokens": 3, "depth": 2, "heads": 2, "hidden": 3}


def latents_after(p, x, depth):
    """What the learned tokens are after they have read x `[t, width]`."""
    z = p["latents.tokens"]
    for layer in range(depth):
        name = f"layers.{layer}"
        normal = norm(p, f"{name}.norm", z)
        seen = np.concatenate([norm(p, f"{name}.source_norm", x), normal])
        z = z + attention(p, f"{name}.attention", normal, seen)
        z = z + mlp(p, f"{name}.mlp", norm(p, f"{name}.mlp_norm", z))
    return norm(p, "norm", z)


def compiled(spec, given):
    module = spec.build({"a": given}, rngs=nnx.Rngs(0))
    call = partial(module, context=Context())
    return jax.jit(lambda stream: call({"a": stream}), compiler_options=QUICK)


def test_two_inputs_of_another_width():
    spec = ResamplerSpec(inputs=["m0", "m1"], width=4, **SMALL)  # pyright: ignore

    def reference(p, xs):
        x = np.concatenate(list(xs.values()))
        return latents_after(p, x @ p["proj.kernel"] + p["proj.bias"], 2)

    streams = [sequence(3, 6, label="m0", padded=True), sequence(2, 6, label="m1")]
    case = check(spec, streams, reference)
    assert spec.infer(case.inputs).spans == (Span("m0_m1", 3),)


def test_items_and_time():
    """Two clips of two frames of two tokens each, after a readout token."""
    spans = (Span("m0", 1, readout=True), Span("m0", 8, items=2))
    given = sequence(9, 4, spans=spans, grid=(("time", 4), ("width", 2)))
    fields = {**SMALL, "depth": 1, "per": "item", "embed": ["time"]}
    spec = ResamplerSpec(inputs=["m0"], **fields)  # pyright: ignore

    def reference(p, xs):
        x = xs[0][1:] + np.repeat(p["embed.tables.0"], 2, axis=0)
        return np.concatenate([latents_after(p, x[:4], 1), latents_after(p, x[4:], 1)])

    case = check(spec, [given], reference)
    assert spec.infer(case.inputs).spans == (Span("m0", 6, items=2),)


def test_an_item_without_tokens_is_padding_and_items_keep_their_place():
    given = sequence(4, 4, spans=(Span("a", 4, items=2),), padded=True)
    spec = ResamplerSpec(inputs=["a"], per="item", **{**SMALL, "depth": 1})  # pyright: ignore
    run = compiled(spec, given)
    values = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4)), jnp.float32)
    mask = jnp.asarray([[True, True, False, False], [False, False, False, True]])
    place = jnp.asarray([4, 4, 9, 9])
    out = run(Stream(values, mask, position=place, spans=given.spans))
    np.testing.assert_array_equal(out.mask, [[True] * 3 + [False] * 3, [False] * 3 + [True] * 3])
    np.testing.assert_array_equal(out.positions(), [4, 4, 4, 9, 9, 9])
    np.testing.assert_array_equal(out.items(), [0, 0, 0, 1, 1, 1])
    assert not np.any(out.values[0, 3:])


def test_a_feature_map_is_its_tokens():
    axes = (("time", 2), ("height", 1), ("width", 2))
    image = Signature((*axes, ("channel", 4)), padded=True, optional=True)
    flat = sequence(4, 4, label="a", padded=True, optional=True, grid=axes)
    fields = {**SMALL, "depth": 1, "embed": ("time", "width")}
    spec = ResamplerSpec(inputs=["a"], **fields)  # pyright: ignore
    assert spec.infer({"a": image}) == spec.infer({"a": flat})
    values = np.random.default_rng(0).normal(size=(3, 4, 4)).astype("float32")
    mask, presence = np.array([[True, True], [True, False], [True, True]]), np.arange(3) < 2
    out = compiled(spec, image)(Stream(jnp.asarray(values.reshape(3, 2, 1, 2, 4)), mask, presence))
    wide = np.repeat(mask, 2, axis=1)
    want = compiled(spec, flat)(Stream(jnp.asarray(values), wide, presence, spans=flat.spans))
    np.testing.assert_allclose(out.values, want.values, atol=1e-6)
    np.testing.assert_array_equal(out.mask, want.mask)


def test_a_sample_without_tokens_is_padding():
    given = sequence(4, 4, label="a", padded=True)
    spec = ResamplerSpec(inputs=["a"], **{**SMALL, "depth": 1})  # pyright: ignore
    mask = jnp.asarray([[True, False, False, False], [False] * 4])
    out = compiled(spec, given)(Stream(jnp.ones((2, 4, 4)), mask, spans=given.spans))
    np.testing.assert_array_equal(out.mask, [[True] * 3, [False] * 3])
    assert np.any(out.values[0])
    assert not np.any(out.values[1])


def test_refuses():
    given = sequence(6, 4, label="a")
    with pytest.raises(WiringError, match="heads do not divide"):
        ResamplerSpec(heads=3).infer({"a": given})
    uneven = replace(given, spans=(Span("a", 6, items=4),))
    with pytest.raises(WiringError, match="items differ in size"):
        ResamplerSpec(per="item").infer({"a": uneven})
    with pytest.raises(WiringError, match="no such axis"):
        ResamplerSpec(embed=("height",)).infer({"a": given})
    with pytest.raises(WiringError, match="number of inputs"):
        ResamplerSpec(embed=("time",)).infer({"a": given, "b": given})
    with pytest.raises(WiringError, match="no grid that is known"):
        ResamplerSpec(embed=("height",), source=(4, 4)).infer({"a": given})

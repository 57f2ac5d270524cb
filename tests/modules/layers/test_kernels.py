"""Attention in layers takes kernels where they can, and says why where it cannot."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Collector, Context
from fusekit.errors import FusekitError
from fusekit.stream import Span, Stream
from fusekit_modules.fusion.cross_attention import CrossAttentionSpec, Reading
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.block import Block

CPU = jax.devices("cpu")[0]
H100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100", compute_capability="9.0")
V5E = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")
OTHER = SimpleNamespace(platform="gpu", device_kind="another make")
MASKS = {
    "none": None,
    "some": np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1]], bool),
    "all": np.array([[0] * 5, [1] * 5], bool),
}


def layer():
    return Attention(16, 2, rngs=nnx.Rngs(0))


def streams(mask, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    own, other = (jnp.asarray(rng.normal(size=(2, n, 16)), dtype) for n in (4, 5))
    spans = Span("a", 4), Span("b", 5)
    return Stream(own, spans=spans[:1]), Stream(other, mask, spans=spans[1:])


def answered(kernel, mask):
    """What the layer gives, and gradients of its weights and of both streams."""
    attention = layer()
    graph, params = nnx.split(attention)
    context = Context(device=CPU, kernel=kernel)

    def total(params, streams):
        out = nnx.merge(graph, params)(*streams, context=context)
        return jnp.sum(jnp.sin(out)), out

    given = streams(None if mask is None else jnp.asarray(mask))
    both = jax.jit(jax.grad(total, (0, 1), has_aux=True, allow_int=True))
    grads, out = both(params, given)
    floats = [g for g in jax.tree.leaves(grads) if jnp.issubdtype(g.dtype, jnp.floating)]
    return out, floats


@pytest.mark.parametrize("mask", MASKS)
def test_the_operation_gives_what_the_portable_form_does(mask):
    out, grads = answered("reference", MASKS[mask])
    due, expected = answered("xla", MASKS[mask])
    np.testing.assert_allclose(out, due, atol=1e-6)
    assert len(grads) == len(expected) > 5
    for one, other in zip(grads, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    if mask == "all":
        assert not np.any(out[0])
        assert np.any(out[1])


def lowered(device, dtype, kernel="auto", mask=None, masks=()):
    attention = layer()
    context = Context(device=device, kernel=kernel, dtype=dtype, path="it")
    given = streams(None if mask is None else jnp.asarray(mask), dtype)

    def run(given):
        return attention(*given, masks=masks, context=context)

    return jax.jit(run).trace(given).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
def test_a_gpu_takes_the_kernel_in_half_precision_alone():
    assert "triton" in lowered(H100, jnp.bfloat16, mask=MASKS["some"])
    assert "triton" not in lowered(H100, jnp.float32)
    assert "triton" not in lowered(H100, jnp.bfloat16, kernel="xla")
    assert "triton" not in lowered(OTHER, jnp.bfloat16)
    per_query = jnp.ones((2, 4, 5), bool)
    assert "triton" not in lowered(H100, jnp.bfloat16, masks=[per_query])


@pytest.mark.parametrize(
    ("device", "masks", "due"),
    [
        (CPU, (), "it: attention cannot use `kernel: pallas`: there are no kernels for CPUs"),
        (H100, (jnp.ones((2, 4, 5), bool),), "what may be read differs from query to query"),
        (OTHER, (), "no kernels know the device another make"),
    ],
)
def test_a_kernel_that_is_asked_for_and_cannot_run_says_why(device, masks, due):
    with pytest.raises(FusekitError, match=due):
        lowered(device, jnp.bfloat16, "pallas", masks=masks)


@pytest.mark.parametrize(("tokens", "backend"), [(64, "tpu"), (1040, "splash")])
def test_long_streams_take_splash_on_tpus(tokens, backend):
    attention = Attention(64, 1, rngs=nnx.Rngs(0))
    choices: dict = {}
    context = Context(device=V5E, kernel="pallas", path="it", collector=Collector((), choices))
    given = Stream(jnp.zeros((1, tokens, 64), jnp.bfloat16), spans=(Span("a", tokens),))
    jax.eval_shape(lambda one: attention(one, context=context), given)
    assert [choice.backend for choice in choices] == [backend]


SEGMENT = np.array([[0, 0, 3, 3, 3], [4, 1, 4, 1, 1]], "int32")


def packed(kernel, mask):
    """What a block gives for packed streams, and gradients of its weights and of the tokens."""
    graph, params = nnx.split(Block(16, 2, hidden=8, rngs=nnx.Rngs(0)))
    context = Context(device=CPU, kernel=kernel)
    values = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 16)), jnp.float32)

    def total(params, values):
        given = Stream(values, mask, spans=(Span("a", 5),), segment=jnp.asarray(SEGMENT))
        out = nnx.merge(graph, params)(given, context=context).stream.values
        return jnp.sum(jnp.sin(out)), out

    grads, out = jax.grad(total, (0, 1), has_aux=True)(params, values)
    return out, jax.tree.leaves(grads)


@pytest.mark.parametrize("mask", MASKS)
def test_packed_streams_get_what_the_portable_form_gives(mask):
    mask = None if MASKS[mask] is None else jnp.asarray(MASKS[mask])
    found, due = packed("reference", mask), packed("xla", mask)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)


def backend(call, tokens, *, packed, kernel="pallas", device=V5E):
    """Which runs the attention of a stream, and why."""
    choices: dict = {}
    collector = Collector((), choices)
    context = Context(device=device, kernel=kernel, named=False, path="it", collector=collector)
    segment = jnp.arange(tokens, dtype="int32") // 7 if packed else None
    values = jnp.zeros((1, tokens, 64), jnp.bfloat16)
    given = Stream(values, spans=(Span("a", tokens),), segment=segment)
    jax.eval_shape(lambda one: call(one, context), given)
    (choice,) = choices
    return choice.backend, choice.why


@pytest.mark.parametrize("tokens", [64, 1040])
def test_packed_streams_take_splash_on_tpus(tokens):
    def stack(**settings):
        block = Block(64, 1, hidden=8, rngs=nnx.Rngs(0), **settings)
        return lambda one, context: block(one, context=context).stream

    plain, ruled = stack(), stack(attend="all")
    unpacked = "tpu" if tokens == 64 else "splash"
    for call in (plain, ruled):
        assert backend(call, tokens, packed=True) == ("splash", "as asked")
        assert backend(call, tokens, packed=False) == (unpacked, "as asked")
    assert "has not been measured" in backend(plain, tokens, packed=True, kernel="auto")[1]
    assert "from segment to segment" in backend(plain, tokens, packed=True, device=H100)[1]
    causal = backend(stack(causal=True), tokens, packed=True)
    assert causal[0] == "xla"
    assert "differs from query to query" in causal[1]

    reading = Reading(CrossAttentionSpec(heads=1, hidden=8), 64, 64, rngs=nnx.Rngs(0))

    def crossed(one, context):
        return reading(one, [one], own=one.length, context=context)

    assert backend(crossed, tokens, packed=True) == ("splash", "as asked")

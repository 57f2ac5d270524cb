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
from fusekit_modules.layers.attention import Attention

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
    grads, out = jax.grad(total, (0, 1), has_aux=True, allow_int=True)(params, given)
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

"""The mixer of Mamba-1 by the kernels for TPUs: values interpreted, and compiled for a v5e."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import SingleDeviceSharding

from fusekit.context import Context
from fusekit.plan.compilers import ENVIRONMENT, devices
from fusekit.stream import Span, Stream
from fusekit_modules.layers import selective
from fusekit_modules.layers.begins import Marks
from fusekit_modules.layers.scan import ScanSettings
from fusekit_modules.ops import Target
from fusekit_tpu.topology import Topology
from tests.modules.layers.test_selective import V5E

INTERPRETED = Target("tpu", generation="v5e", interpret=True)
MASK = np.ones((2, 12), bool)
MASK[0, 3:5] = MASK[1, 9:] = False


def made(width, states):
    settings = ScanSettings(states=states)
    mixer = selective.Selective(width, 2, settings, both=True, rngs=nnx.Rngs(0))
    return nnx.split(mixer)


def both(graph, context, params, x, mask):
    """What the mixer gives with resets and absent tokens, and gradients of all that goes in."""

    def total(params, x):
        stream = Stream(x, mask, spans=(Span("a", 5), Span("b", x.shape[1] - 5)))
        marks = Marks.of(stream, "label")
        y = nnx.merge(graph, params)(stream, marks, {}, context=context)
        return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

    return jax.grad(total, (0, 1), has_aux=True)(params, x)


@pytest.mark.slow
def test_kernels_give_what_the_portable_form_does(monkeypatch):
    graph, params = made(8, 4)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 8)), jnp.float32)
    x = jnp.where(MASK[..., None], x, jnp.nan)
    due = jax.jit(partial(both, graph, Context()))(params, x, jnp.asarray(MASK))
    monkeypatch.setattr(selective, "target_of", lambda context: INTERPRETED)
    context = Context(device=V5E, kernel="pallas", named=True, path="it")
    context.collector.choices = {}
    found = jax.jit(partial(both, graph, context))(params, x, jnp.asarray(MASK))
    assert [note.backend for note in context.collector.choices] == ["tpu"]
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other)


@pytest.mark.slow
def test_both_passes_compile_with_kernels_where_they_are_asked_for(monkeypatch):
    pytest.importorskip("libtpu")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    v5e = devices(Topology.parse("v5e:2x2"))[0]
    graph, params = made(64, None)
    where = SingleDeviceSharding(v5e)
    given = (params, jnp.zeros((2, 200, 64), jnp.bfloat16), jnp.ones((2, 200), bool))
    given = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), given)
    for kernel, count in (("auto", 0), ("pallas", 4)):
        context = Context(path="it", device=v5e, kernel=kernel, dtype=jnp.bfloat16)
        text = jax.jit(partial(both, graph, context)).lower(*given).compile().as_text()
        assert text.count('custom_call_target="tpu_custom_call"') == count

"""GPU kernels through the real compiler, for an H200 that is not there: calls and temporaries."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from fusekit.plan.compilers import devices
from fusekit.plan.gpus import PLUGINS
from fusekit_modules.ops import Target
from fusekit_modules.ops.contrastive import gram, info_nce, siglip
from fusekit_modules.ops.low_rank import Factor, low_rank
from fusekit_modules.ops.stream_attention import cases, stream_attention
from fusekit_tpu.topology import Topology

pytestmark = [
    pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning"),
    pytest.mark.skipif(
        not any(map(find_spec, PLUGINS)), reason="JAX's CUDA plugin is not installed"
    ),
]
MIB = 2**20
H200 = Target("gpu", capability=(9, 0))


def compiled(function: Callable[..., Any], *given: Any) -> tuple[int, float]:
    """Kernels in the program, and MiB of its temporaries."""
    device = devices(Topology.parse("h200:1"))[0]
    assert Target.of(device) == H200
    where = SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), given)
    program = jax.jit(function).lower(*shapes).compile()
    calls = (program.as_text() or "").count('custom_call_target="__gpu$xla.gpu.triton"')
    return calls, program.memory_analysis().temp_size_in_bytes / MIB


@pytest.mark.parametrize("number", range(len(cases.TIMED)))
def test_attention(number):
    case = cases.TIMED[number]
    given = jax.eval_shape(lambda: cases.arrays(case, jnp.bfloat16))

    def forward(queries, sources):
        options = {"heads": case.heads, "reads": case.reads, "target": H200, "backend": "gpu"}
        return stream_attention(queries, sources, **options)

    def both(queries, sources):
        found, back = jax.vjp(forward, queries, sources)
        return found, back(found)

    assert compiled(forward, *given) == (1, 0)
    calls, temporaries = compiled(both, *given)
    assert calls == 3
    assert temporaries < 4  # logarithms, and what both of them need by query


VECTORS = {"info_nce": 2, "siglip": 2, "gram": 3}


@pytest.mark.parametrize("name", VECTORS)
def test_contrasts(name):
    """Of 8192 rows, whose scores are 256 MiB in float32."""
    vectors = [jax.ShapeDtypeStruct((8192, 512), jnp.bfloat16)] * VECTORS[name]

    def loss(scale, x, *others):
        every = jnp.ones(len(x), bool)
        options = {"target": H200, "forward": "gpu", "backward": "gpu"}
        if name == "siglip":
            return jnp.sum(siglip(x, *others, scale, jnp.float32(-10), every, **options))
        if name == "gram":
            return sum(map(jnp.sum, gram(x, list(others), scale, every, **options)))
        return sum(map(jnp.sum, info_nce(x, *others, scale, every, every, **options)))

    scale = jax.ShapeDtypeStruct((), jnp.float32)
    calls, temporaries = compiled(loss, scale, *vectors)
    assert calls == 1
    assert temporaries < 40
    gradients = jax.grad(loss, tuple(range(len(vectors) + 1)))
    calls, temporaries = compiled(gradients, scale, *vectors)
    assert calls == 2
    assert temporaries < 220  # 128 of gradients by scores


def test_low_rank():
    """4096 rows of four modalities of 768, rank 16, 512 features: all at once 128 MiB."""
    rows = [jax.ShapeDtypeStruct((4096, 768), jnp.bfloat16)] * 4
    bias, weight = ((16, 512), jnp.bfloat16), ((16, 768, 512), jnp.bfloat16)
    factors = [Factor(jax.ShapeDtypeStruct(*bias), jax.ShapeDtypeStruct(*weight))] * 4
    ends = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((16,), (512,))]

    def forward(rows, factors, mix, bias):
        return low_rank(rows, factors, mix, bias, target=H200, backend="gpu")

    calls, temporaries = compiled(forward, rows, factors, *ends)
    assert calls == 1
    assert temporaries < 1

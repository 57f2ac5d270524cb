"""Kernels on the GPU that is here, against the float32 reference: values and gradients.

JAX_DISABLE_MOST_OPTIMIZATIONS=0 JAX_PLATFORMS=cuda \\
    python -m pytest -m gpu -W ignore tests/ops/test_gpu_kernels.py
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit_modules.ops import Target
from fusekit_modules.ops.stream_attention import Source, cases, stream_attention

pytestmark = pytest.mark.gpu
CASES = (
    *(replace(case, missing="some") for case in cases.TESTED),
    *(replace(cases.TESTED[1], missing=missing) for missing in ("none", "streams", "all")),
    *(replace(cases.TIMED[n], batch=2, missing="some") for n in (0, 2, 3)),
)


@pytest.fixture(scope="module")
def target():
    if jax.devices()[0].platform != "gpu":
        pytest.skip("there is no GPU")
    return Target.of(jax.devices()[0])


def run(case, given, target, backend):
    """Results and all gradients, of both passes by one backend."""
    queries, sources, grads = given

    def outs(values, pairs):
        streams = [q._replace(values=v) for q, v in zip(queries, values, strict=True)]
        read = [Source(k, v, s.mask) for (k, v), s in zip(pairs, sources, strict=True)]
        return stream_attention(
            streams, read, heads=case.heads, reads=case.reads, target=target, backend=backend
        )

    def both(values, pairs, grads):
        found, back = jax.vjp(outs, values, pairs)
        return found, back(tuple(grads))

    values, pairs = [q.values for q in queries], [(s.key, s.value) for s in sources]
    return jax.tree.map(lambda a: np.asarray(a, np.float32), jax.jit(both)(values, pairs, grads))


def distance(found, due):
    found, due = jax.tree.leaves(found), jax.tree.leaves(due)
    apart = sum(np.sum((f - d) ** 2) for f, d in zip(found, due, strict=True))
    return np.sqrt(apart / max(sum(np.sum(d**2) for d in due), 1e-30))


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.float32, 1e-5), (jnp.bfloat16, 5e-3)])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}, {case.missing} missing")
def test_kernels_equal_the_reference(case, dtype, limit, target):
    queries, sources = cases.arrays(case, dtype)
    rng = np.random.default_rng(1)
    grads = [jnp.asarray(rng.standard_normal(q.values.shape), dtype) for q in queries]
    given = (list(queries), list(sources), grads)
    wide = jax.tree.map(lambda a: a if a.dtype == bool else a.astype(jnp.float32), given)
    outs, back = run(case, given, target, "gpu")
    due_outs, due_back = run(case, wide, target, "reference")
    assert distance(outs, due_outs) < limit
    assert distance(back, due_back) < limit
    for out, stream in zip(outs, queries, strict=True):
        assert stream.mask is None or not out[~np.asarray(stream.mask)].any()

"""GPU kernels, interpreted, against the reference: values and gradients; and that they lower."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit_modules.ops import Target
from fusekit_modules.ops.stream_attention import cases, gpu, reference
from fusekit_modules.ops.stream_attention.form import form_of

H100 = Target("gpu", capability=(9, 0))
MESH = jax.sharding.AbstractMesh(
    (1,),
    ("data",),
    abstract_device=jax.sharding.AbstractDevice("NVIDIA H100", num_cores=132, platform="gpu"),
)
TILES = gpu.Tiles(queries=16, keys=16)


def difference(found, due):
    found, due = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(x)]) for x in (found, due))
    found, due = found.astype(np.float64), due.astype(np.float64)
    return np.linalg.norm(found - due) / max(np.linalg.norm(due), 1e-30)


def made(case, dtype):
    queries, sources = cases.arrays(case, dtype)
    rng = np.random.default_rng(1)
    grads = [jnp.asarray(rng.standard_normal(q.values.shape), dtype) for q in queries]
    form = form_of(queries, sources, heads=case.heads, scale=None, reads=case.reads)
    return form, queries, sources, grads


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.float32, 1e-5), (jnp.bfloat16, 5e-3)])
@pytest.mark.parametrize(
    ("number", "missing"),
    [(0, "none"), (1, "some"), (1, "all"), (3, "streams"), (4, "some")],
)
def test_kernels_equal_the_reference(number, missing, dtype, limit):
    case = replace(cases.TESTED[number], missing=missing)
    form, queries, sources, grads = made(case, dtype)
    read = replace(form, interpret=True)
    results = jax.jit(lambda: gpu.forward(read, queries, sources, tiles=TILES))()
    exact = jax.tree.map(
        lambda a: a if a.dtype == bool else a.astype(jnp.float32), (queries, sources)
    )
    due = reference.forward(form, *exact)
    assert difference(results, due) < limit
    assert all(out.dtype == dtype for out, _ in results)
    found = jax.jit(
        lambda: gpu.backward(read, queries, sources, results, grads, tiles=(TILES, TILES))
    )()
    wide = [g.astype(jnp.float32) for g in grads]
    assert difference(found, reference.backward(form, *exact, due, wide)) < limit


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("case", cases.TIMED, ids=lambda case: case.name)
def test_kernels_lower_for_gpus(case):
    form, *arrays = jax.tree.map(
        lambda a: (
            jax.ShapeDtypeStruct((case.batch, *a.shape[1:]), a.dtype) if hasattr(a, "shape") else a
        ),
        made(replace(case, batch=2), jnp.bfloat16),
        is_leaf=lambda a: hasattr(a, "heads"),
    )
    assert gpu.unsupported(H100, form, *arrays[:2]) is None

    def both(queries, sources, grads):
        results = gpu.forward(form, queries, sources)
        return gpu.backward(form, queries, sources, results, grads)

    with jax.sharding.use_abstract_mesh(MESH):
        text = jax.jit(both).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    for name in ("forward", "queries", "keys"):
        assert f"stream_attention_{name}" in text


def test_what_the_kernels_cannot_do_is_said():
    form, queries, sources, _ = made(cases.TESTED[0], jnp.float32)
    assert gpu.unsupported(Target("cpu"), form, queries, sources) == "the target is a CPU"
    old = Target("gpu", capability=(7, 5))
    assert "is older than 8.0" in gpu.unsupported(old, form, queries, sources)
    form, queries, sources, _ = made(replace(cases.TESTED[0], heads=1, head_dim=256), jnp.float32)
    assert gpu.unsupported(H100, form, queries, sources) == "heads of 256 are wider than 128"

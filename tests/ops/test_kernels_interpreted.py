"""Kernels, interpreted, against the reference: values and gradients; and that they lower."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.layout import Layout
from fusekit_modules.ops import Target
from fusekit_modules.ops.stream_attention import (
    Source,
    cases,
    gpu,
    plan,
    reference,
    stream_attention,
    tpu,
)
from fusekit_modules.ops.stream_attention.form import form_of
from tests.support.often import often

H100 = Target("gpu", capability=(9, 0))
LIMITS = {jnp.float32: 1e-5, jnp.bfloat16: 5e-3}
MESH = jax.sharding.AbstractMesh(
    (1,),
    ("data",),
    abstract_device=jax.sharding.AbstractDevice("NVIDIA H100", num_cores=132, platform="gpu"),
)
TILES = gpu.Tiles(queries=16, keys=16)
BACKENDS = {
    "gpu": (partial(gpu.forward, tiles=TILES), partial(gpu.backward, tiles=(TILES, TILES))),
    "tpu": (tpu.forward, tpu.backward),
}


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


@pytest.mark.parametrize("dtype", often(LIMITS, [jnp.float32]))
@pytest.mark.parametrize(
    ("number", "missing"),
    [(0, "none"), (1, "some"), (3, "streams"), (3, "all"), (4, "some")],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_kernels_equal_the_reference(backend, number, missing, dtype):
    limit = LIMITS[dtype]
    case = replace(cases.TESTED[number], missing=missing)
    form, queries, sources, grads = made(case, dtype)
    interpreted = replace(form, interpret=True)
    forward, backward = BACKENDS[backend]

    def both():
        results = forward(interpreted, queries, sources)
        return results, backward(interpreted, queries, sources, results, grads)

    results, found = jax.jit(both)()
    exact = jax.tree.map(
        lambda a: a if a.dtype == bool else a.astype(jnp.float32), (queries, sources, grads)
    )
    due = jax.jit(partial(reference.forward, form))(*exact[:2])
    owed = jax.jit(partial(reference.backward, form))(*exact[:2], due, exact[2])
    assert difference(results, due) < limit
    assert difference(found, owed) < limit
    assert all(out.dtype == dtype for out, _ in results)


@pytest.mark.parametrize(("platform", "name"), [("gpu", "gpu"), ("tpu", "tpu")])
def test_passes_choose_their_backends_by_themselves(platform, name):
    case = replace(cases.TESTED[0], missing="some")
    form, queries, sources, grads = made(case, jnp.float32)
    target = Target(platform, generation="v5e" if platform == "tpu" else None, interpret=True)

    def outs(values):
        streams = [q._replace(values=v) for q, v in zip(queries, values, strict=True)]
        return stream_attention(streams, sources, heads=case.heads, target=target, backward="xla")

    run = plan(queries, sources, heads=case.heads, target=target, backward="xla")
    assert (run.forward.backend, run.backward.backend) == (name, "xla")
    found, back = jax.vjp(outs, [q.values for q in queries])
    due = reference.forward(form, queries, sources)
    assert difference(found, [out for out, _ in due]) < 1e-5
    d_queries, _ = reference.backward(form, queries, sources, due, grads)
    assert difference(back(tuple(grads)), d_queries) < 1e-5


@pytest.mark.parametrize("platform", often(["gpu", "tpu"], ["tpu"]))
def test_every_device_of_a_mesh_takes_its_examples_and_heads(platform):
    case = replace(cases.TESTED[2], head_dim=16, missing="some")
    form, queries, sources, grads = made(case, jnp.float32)
    layout = Layout.of({"data": 2, "tensor": 2}, devices=jax.devices()[:4])
    target = Target(platform, generation="v5e" if platform == "tpu" else None, interpret=True)

    def outs(values, pairs):
        streams = [q._replace(values=v) for q, v in zip(queries, values, strict=True)]
        read = [Source(k, v, s.mask) for (k, v), s in zip(pairs, sources, strict=True)]
        return stream_attention(
            streams, read, heads=case.heads, target=target, layout=layout, backend=platform
        )

    def both(values, pairs, grads):
        found, back = jax.vjp(outs, values, pairs)
        return found, back(tuple(grads))

    given = [q.values for q in queries], [(s.key, s.value) for s in sources], grads
    lowered = jax.jit(both).lower(*given)
    assert "all_gather" not in lowered.as_text()
    found, back = lowered.compile()(*given)
    due = reference.forward(form, queries, sources)
    assert difference(found, [out for out, _ in due]) < 1e-5
    assert difference(back, reference.backward(form, queries, sources, due, grads)) < 1e-5


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
    v5e = Target("tpu", generation="v5e")
    form, queries, sources, _ = made(cases.TESTED[0], jnp.float32)
    assert gpu.unsupported(Target("cpu"), form, queries, sources) == "the target is a CPU"
    assert tpu.unsupported(H100, form, queries, sources).startswith("the target is a GPU of")
    assert tpu.unsupported(v5e, form, queries, sources) is None
    old = Target("gpu", capability=(7, 5)), Target("tpu", generation="v2")
    assert "is older than 8.0" in gpu.unsupported(old[0], form, queries, sources)
    assert tpu.unsupported(old[1], form, queries, sources) == "it was not compiled for TPU v2"
    form, queries, sources, _ = made(replace(cases.TESTED[0], heads=1, head_dim=256), jnp.float32)
    assert gpu.unsupported(H100, form, queries, sources) == "heads of 256 are wider than 128"
    form, queries, sources, _ = made(replace(cases.TESTED[0], head_dim=24), jnp.float32)
    assert tpu.unsupported(v5e, form, queries, sources) == "heads of 24 do not divide by 16"
    form, queries, sources, _ = made(replace(cases.TESTED[0], sources=(1025,)), jnp.float32)
    assert tpu.unsupported(v5e, form, queries, sources) == "1025 tokens are more than 1024"

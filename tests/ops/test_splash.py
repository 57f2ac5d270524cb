"""Attention of long streams by JAX's splash attention: values, gradients, and when it is taken."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from fusekit.layout import Layout
from fusekit.plan.compilers import ENVIRONMENT, devices
from fusekit_modules.ops import BackendError, Target
from fusekit_modules.ops.stream_attention import (
    Queries,
    Source,
    cases,
    plan,
    reference,
    splash,
    stream_attention,
)
from fusekit_modules.ops.stream_attention.cases import Case
from fusekit_modules.ops.stream_attention.form import form_of
from fusekit_tpu.topology import Topology
from tests.support.often import often

V5E = Target("tpu", generation="v5e")
LIMITS = {jnp.float32: 1e-5, jnp.bfloat16: 5e-3}


def difference(found, due):
    found, due = (
        np.concatenate([np.ravel(a) for a in jax.tree.leaves(x)]).astype("float64")
        for x in (found, due)
    )
    return np.linalg.norm(found - due) / max(np.linalg.norm(due), 1e-30)


def given(length, batch=2, *, packed=False):
    tokens: Any = jax.ShapeDtypeStruct((batch, length, 128), jnp.bfloat16)
    ids: Any = jax.ShapeDtypeStruct((batch, length), jnp.int32) if packed else None
    return [Queries(tokens, None, ids)], [Source(tokens, tokens, None, ids)]


@pytest.mark.parametrize("dtype", often(LIMITS, [jnp.float32]))
@pytest.mark.parametrize(
    "case",
    [
        cases.TESTED[0],
        replace(cases.TESTED[1], missing="some"),
        replace(cases.TESTED[3], missing="streams"),
        replace(cases.TESTED[3], missing="all"),
        replace(cases.TESTED[4], missing="some"),
        cases.PACKED[0],
        replace(cases.PACKED[1], missing="streams"),
        replace(cases.PACKED[2], missing="some"),
        # more than one tile, in which whole tiles are of other segments
        Case("tiles", 1, 1, 16, (300,), (300,), missing="some", segments=9),
    ],
    ids=str,
)
def test_it_equals_the_reference(case, dtype):
    limit = LIMITS[dtype]
    queries, sources = cases.arrays(case, dtype)
    rng = np.random.default_rng(1)
    grads = [jnp.asarray(rng.standard_normal(q.values.shape), dtype) for q in queries]
    form = form_of(queries, sources, heads=case.heads, scale=None, reads=case.reads)
    interpreted = replace(form, interpret=True)

    def run(values, pairs):
        read = [q._replace(values=v) for q, v in zip(queries, values, strict=True)]
        of = [s._replace(key=k, value=v) for s, (k, v) in zip(sources, pairs, strict=True)]
        return [out for out, _ in splash.forward(interpreted, read, of)]

    outs, back = jax.vjp(
        jax.jit(run), [q.values for q in queries], [(s.key, s.value) for s in sources]
    )
    exact = jax.tree.map(
        lambda a: a.astype(jnp.float32) if a.dtype == dtype else a, (queries, sources, grads)
    )
    due = jax.jit(partial(reference.forward, form))(*exact[:2])
    owed = jax.jit(partial(reference.backward, form))(*exact[:2], due, exact[2])
    assert difference(outs, [out for out, _ in due]) < limit
    found = back(grads)
    assert difference(found, owed) < limit
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(found))


def test_long_streams_take_it_where_whole_ones_have_no_room():
    def chosen(length, target=V5E, **more):
        queries, sources = given(length)
        return plan(queries, sources, heads=2, target=target, **more)

    assert chosen(1024).forward.backend == "tpu"
    run = chosen(1025)
    assert (run.forward.backend, run.backward.backend) == ("splash", "splash")
    assert "1025 tokens are more than 1024" in str(run.forward)
    assert chosen(1025, Target("cpu")).forward.backend == "xla"
    with pytest.raises(BackendError, match="few enough"):
        chosen(1024, backend="splash")
    with pytest.raises(BackendError, match="splash makes both passes"):
        chosen(1025, backward="xla")


def test_what_it_cannot_do_is_said():
    queries, sources = given(1152)
    form = form_of(queries, sources, heads=2, scale=None, reads=None)

    def reason(target=V5E, form=form, queries=queries):
        return splash.unsupported(target, form, queries, sources)

    assert reason() is None
    assert reason(Target("cpu")) == "the target is a CPU"
    assert reason(Target("tpu", "v2")) == "it was not compiled for TPU v2"
    assert reason(form=replace(form, heads=4)) == "heads of 32 do not divide by 64"
    half: Any = jax.ShapeDtypeStruct((2, 1152, 128), jnp.float16)
    assert reason(queries=[Queries(half)]) == "float16 is not float32 or bfloat16"


@pytest.mark.parametrize("length", [200, 1152])
def test_packed_streams_take_it_whatever_their_length(length):
    queries, sources = given(length, packed=True)
    run = plan(queries, sources, heads=2, target=V5E)
    assert (run.forward.backend, run.backward.backend) == ("splash", "splash")
    assert "what may be read differs from segment to segment" in str(run.forward)
    h100 = Target("gpu", capability=(9, 0))
    assert plan(queries, sources, heads=2, target=h100).forward.backend == "xla"


def test_each_device_of_a_mesh_takes_its_own(monkeypatch):
    monkeypatch.setattr(splash, "LONGEST", 16)
    case = replace(cases.PACKED[0], batch=4, heads=2, head_dim=64, missing="some")
    queries, sources = cases.arrays(case)
    layout = Layout.of({"data": 2, "tensor": 2}, devices=jax.devices()[:4])

    def made(target, layout, backend):
        def total(values):
            read = [q._replace(values=v) for q, v in zip(queries, values, strict=True)]
            given = {"heads": 2, "target": target, "layout": layout, "backend": backend}
            return jnp.sum(stream_attention(read, sources, **given)[0] ** 2)

        return jax.jit(jax.value_and_grad(total))([q.values for q in queries])

    found = made(replace(V5E, interpret=True), layout, "splash")
    assert difference(found, made(Target("cpu"), None, "reference")) < 1e-5


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_it_compiles_for_chips_that_are_not_here(topology, packed, monkeypatch):
    pytest.importorskip("libtpu")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    chip = devices(Topology.parse(topology))[0]
    where = SingleDeviceSharding(chip)
    tokens: Any = jax.ShapeDtypeStruct((2, 1152, 128), jnp.bfloat16, sharding=where)
    ids: Any = jax.ShapeDtypeStruct((2, 1152), jnp.int32, sharding=where)
    mask: Any = jax.ShapeDtypeStruct((2, 1152), bool, sharding=where)

    def both(query, key, value, grad, mask, ids):
        def run(query, key, value):
            given = {"heads": 2, "target": Target.of(chip)}
            queries, source = Queries(query, mask, ids), Source(key, value, mask, ids)
            return stream_attention([queries], [source], **given)[0]

        out, back = jax.vjp(run, query, key, value)
        return out, back(grad)

    more = (mask, ids) if packed else (None, None)
    program = jax.jit(both).lower(tokens, tokens, tokens, tokens, *more).compile()
    # forward, and gradients by queries and by keys and values
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 3
    # all scores would be 2 x 2 x 1152^2 in float32
    assert program.memory_analysis().temp_size_in_bytes < 2 * 1152**2 * 4

"""`ssd` over a mesh, which cuts examples and heads; and exported for every platform."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit_modules.ops.ssd import cases, ssd
from tests.ops.ssd.exact import difference
from tests.support.compiled import mesh_of

CASE = cases.Case("cut", 4, 48, 4, 8, 1, 4, resets=0.1, missing="some", begun=True)


def both(x, decay, into, out, reset, valid, state):
    """Results and gradients."""

    def total(*args):
        y, last = ssd(*args[:4], reset=reset, valid=valid, state=args[4], chunk=16)
        return jnp.sum(jnp.sin(y)) + jnp.sum(last**2), (y, last)

    call = jax.value_and_grad(total, argnums=(0, 1, 2, 3, 4), has_aux=True)
    (_, results), grads = call(x, decay, into, out, state)
    return results, grads


@pytest.mark.parametrize("groups", [1, 2])
def test_examples_and_heads_are_cut_and_nothing_is_gathered(groups):
    given, marks = cases.arrays(replace(CASE, groups=groups))
    args = (*given, marks["reset"], marks["valid"], marks["state"])
    due = jax.jit(both)(*args)
    mesh = mesh_of(jax.devices(), data=4, tensor=2)
    heads, rows = P("data", None, "tensor"), P("data")
    of_groups = heads if groups == 2 else rows
    specs = (heads, heads, of_groups, of_groups, rows, rows, P("data", "tensor"))
    where = [NamedSharding(mesh, spec) for spec in specs]
    results = (where[0], where[6])
    outs = results, (*where[:4], where[6])
    program = jax.jit(both, in_shardings=tuple(where), out_shardings=outs)
    found = program(*args)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert difference(one, other) < 1e-5
    text = program.lower(*args).compile().as_text()
    for sent in ("all-gather", "all-to-all", "collective-permute"):
        assert sent not in text


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_it_can_be_exported(platform):
    given, marks = cases.arrays(replace(CASE, missing="none"))
    args = (*given, marks["reset"], jnp.ones((4, 48), bool), marks["state"])
    exported = jax.export.export(jax.jit(both), platforms=[platform])(*args)
    assert exported.platforms == (platform,)
    if platform == "cpu":
        again = jax.export.deserialize(exported.serialize())
        found, due = again.call(*args), jax.jit(both)(*args)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_one_export_serves_all_platforms():
    given, marks = cases.arrays(CASE)
    args = (*given, marks["reset"], marks["valid"], marks["state"])
    exported = jax.export.export(jax.jit(both), platforms=["cpu", "cuda", "tpu"])(*args)
    assert exported.platforms == ("cpu", "cuda", "tpu")

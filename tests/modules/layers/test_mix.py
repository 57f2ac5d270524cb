"""Attention that keeps no scores, against a NumPy form that leaves out what is masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.context import Context
from fusekit.jaxprs import equations
from fusekit.layout import Layout
from fusekit.plan.compilers import devices
from fusekit_modules.layers.mix import mix
from fusekit_modules.layers.way import HELD, Way, way_of
from fusekit_tpu.topology import Topology
from tests.modules.layers.harness import TIGHT, check_gradients, float64

B, Q, N, H, K = 4, 3, 5, 2, 6
WAYS = [Way(), Way(1, product=True), Way(2), Way(2, 2), Way(4, 1, True), Way(2, 2, True)]
RNG = np.random.default_rng(0)
MASKS = {
    "none": None,
    "of keys": np.array([[1, 1, 0, 1, 0], [1] * 5, [0] * 5, [1, 0, 0, 0, 0]], bool)[:, None],
    "of queries and keys": np.tril(np.ones((Q, N), bool), 1),
    "of all": RNG.random((B, Q, N)) < 0.5,
}


def arrays(dtype="float64"):
    sizes = {"q": (B, Q, H, K), "k": (B, N, H, K), "v": (B, N, H, K)}
    return {name: RNG.normal(size=size).astype(dtype) for name, size in sizes.items()}


def form(p, mask):
    """Query by query, over the keys that it may read."""
    allowed = np.broadcast_to(True if mask is None else mask, (B, Q, N))
    out = np.zeros((B, Q, H, K))
    for b, q, h in np.ndindex(B, Q, H):
        some = allowed[b, q]
        scores = p["k"][b, some, h] @ p["q"][b, q, h] / np.sqrt(K)
        weights = np.exp(scores - scores.max(initial=-np.inf))
        out[b, q, h] = weights @ p["v"][b, some, h] / max(weights.sum(), 1e-300)
    return out


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_values_and_gradients(way, name):
    p, mask = arrays(), MASKS[name]

    def call(p):
        return mix(way, p["q"], p["k"], p["v"], None if mask is None else jnp.asarray(mask))

    with float64():
        got = call({name: jnp.asarray(array) for name, array in p.items()})
    np.testing.assert_allclose(got, form(p, mask), **TIGHT)
    check_gradients(call, lambda p: form(p, mask), p)


def test_second_derivatives_are_those_of_the_plain_form():
    p, mask = arrays(), jnp.asarray(MASKS["of queries and keys"])

    def plain(q, k, v):
        scores = jnp.where(mask, jnp.einsum("bqhk,bnhk->bhqn", q, k), -jnp.inf)
        weights = jax.nn.softmax(scores / np.sqrt(K))
        return jnp.einsum("bhqn,bnhk->bqhk", weights, v)

    def penalty(function):
        def sum_of(*given):
            return jnp.sum(jnp.sin(function(*given)))

        own = jax.grad(sum_of)
        return jax.jit(jax.grad(lambda *given: jnp.sum(own(*given) ** 2), argnums=(0, 1, 2)))

    with float64():
        given = [jnp.asarray(p[name]) for name in "qkv"]
        got = penalty(lambda *given: mix(Way(2, product=True), *given, mask))(*given)
        for one, want in zip(got, penalty(plain)(*given), strict=True):
            np.testing.assert_allclose(one, want, **TIGHT)


def test_a_query_that_reads_nothing_gets_zeros_and_passes_none_but_zeros():
    p, nothing = arrays("float32"), jnp.zeros((B, 1, N), bool)
    np.testing.assert_array_equal(mix(Way(), p["q"], p["k"], p["v"], nothing), 0)

    @jax.jit
    @jax.grad
    def grads_of(p):
        return jnp.sum(mix(Way(), p["q"], p["k"], p["v"], nothing) + 1) ** 2

    grads = grads_of(p)
    for grad in grads.values():
        np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("way", [Way(), Way(2, product=True)], ids=str)
def test_half_precision_scores_are_never_rounded(way):
    """Large random scores: a score rounded to bfloat16 would be off by up to 1/8."""
    rng = np.random.default_rng(1)
    shape = (2, 9, 2, 64)
    given = [jnp.asarray(rng.normal(size=shape) * 2, jnp.bfloat16) for _ in range(3)]
    weight = jnp.asarray(rng.normal(size=shape), jnp.bfloat16)

    def plain(q, k, v):
        weights = jax.nn.softmax(jnp.einsum("bqhk,bnhk->bhqn", q, k) / 8)
        return jnp.einsum("bhqn,bnhk->bqhk", weights, v)

    got, pull = jax.vjp(lambda *given: mix(way, *given), *given)
    with float64():
        want, pull_wide = jax.vjp(plain, *(jnp.asarray(x, jnp.float64) for x in given))
        grads = pull_wide(jnp.asarray(weight, jnp.float64))
    assert got.dtype == jnp.bfloat16
    for one, exact in zip((got, *pull(weight)), (want, *grads), strict=True):
        exact = np.asarray(exact)
        error = np.abs(np.asarray(one, "float64") - exact)
        assert error.max() < 2**-7 * np.abs(exact).max()


def test_no_scores_are_kept():
    p = arrays("float32")
    kept = jax.eval_shape(lambda p: jax.vjp(lambda p: mix(Way(), p["q"], p["k"], p["v"]), p)[1], p)
    shapes = [leaf.shape for leaf in jax.tree.leaves(kept)]
    assert shapes
    assert (B, H, Q, N) not in shapes


def test_groups_stay_on_their_devices():
    """Rows cut over eight devices, in two groups: the same numbers, and nothing is sent."""
    layout = Layout.of({"data": 8})
    shape = (16, Q, H, K)
    place = NamedSharding(layout.mesh, P("data"))
    given = [jax.device_put(RNG.normal(size=shape).astype("float32"), place) for _ in range(3)]

    def step(*given):
        out, pull = jax.vjp(lambda *given: mix(Way(2, 8), *given), *given)
        return out, pull(out)

    compiled = jax.jit(step).lower(*given).compile()
    for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert f" {word}(" not in compiled.as_text()
    for one, want in zip(
        jax.tree.leaves(compiled(*given)),
        jax.tree.leaves(step(*map(np.asarray, given))),
        strict=True,
    ):
        np.testing.assert_allclose(one, want, rtol=1e-5, atol=1e-6)


def test_the_way_follows_the_device():
    query = jax.ShapeDtypeStruct((64, 512, 8, 64), jnp.bfloat16)
    on_cpu = Context(device=jax.devices()[0])
    assert way_of(on_cpu, query, 512) == Way()
    chips = devices(Topology.parse("v5e:2x2"))
    alone = Context(device=chips[0])
    group = HELD // (4 * 8 * 512 * 512)
    assert way_of(alone, query, 512) == Way(64 // group, product=True)
    cut = Context(device=chips[0], layout=Layout.of({"data": 2, "tensor": 2}, devices=chips))
    assert way_of(cut, query, 512) == Way(32 // (2 * group), 2, product=True)
    full = jax.ShapeDtypeStruct((64, 16, 8, 128), jnp.bfloat16)
    assert way_of(alone, full, 16) == Way()


def test_loops_have_one_body():
    p = arrays("float32")
    jaxpr = jax.make_jaxpr(lambda p: mix(Way(4), p["q"], p["k"], p["v"]))(p).jaxpr
    assert [e.params["length"] for e in equations(jaxpr) if e.primitive.name == "scan"] == [4]


def test_a_mask_is_not_spread_over_all_scores():
    """A mask that depends on no parameter, in groups within a scan of layers: what is known before
    the loop would be made of all groups at once."""
    mask = jnp.asarray(MASKS["of keys"])

    def loss(x):
        def layer(x, _):
            return x + mix(Way(2), x, x, x, mask), None

        return jnp.sum(jax.lax.scan(layer, x, length=3)[0])

    jaxpr = jax.make_jaxpr(jax.grad(loss))(jnp.ones((B, N, H, K))).jaxpr
    found = {out.aval.shape for e in equations(jaxpr) for out in e.outvars if out.aval.shape}
    assert (B // 2, H, N, N) in found
    assert (2, B // 2, H, N, N) not in found

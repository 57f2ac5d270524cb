"""Experts on several devices against a loop over tokens, whatever the routing."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.layout import Layout
from fusekit.plan.hlo.costs import costs
from fusekit_modules.fusion._expert_parallel import ExpertPlace, together, travel
from fusekit_modules.fusion._routing import gated, ragged
from tests.modules.layers.harness import TIGHT, check_gradients, float64
from tests.support.often import often

ROWS, TIME, WIDTH, HIDDEN, EXPERTS, TOP = 4, 6, 3, 4, 4, 2
MESHES = {
    "4": {"expert": 4},
    "2, rows and hidden": {"data": 2, "expert": 2, "tensor": 2},
    "2, tokens": {"expert": 2, "sequence": 2},
}
RNG = np.random.default_rng(0)
P = {
    "x": RNG.normal(size=(ROWS, TIME, WIDTH)),
    "weight": RNG.random((ROWS, TIME, TOP)),
    "up": RNG.normal(size=(EXPERTS, WIDTH, HIDDEN)),
    "down": RNG.normal(size=(EXPERTS, HIDDEN, WIDTH)),
}
ORDERS = np.array([RNG.permutation(EXPERTS)[:TOP] for _ in range(ROWS * TIME)])
ROUTINGS = {
    "any": ORDERS.reshape(ROWS, TIME, TOP),
    # more than a first round has room for
    "all to the same two": np.broadcast_to(np.arange(TOP), (ROWS, TIME, TOP)),
}


def gelu(x):
    erf = np.vectorize(math.erf)
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def form(p, expert):
    found = np.zeros_like(p["x"])
    for b, t, k in np.ndindex(*expert.shape):
        e = expert[b, t, k]
        found[b, t] += p["weight"][b, t, k] * (gelu(p["x"][b, t] @ p["up"][e]) @ p["down"][e])
    return found


def caller(sizes, expert):
    place = ExpertPlace.of(Layout.of(sizes), (ROWS, TIME, WIDTH), EXPERTS, HIDDEN)
    assert place is not None

    def call(p):
        weights = p["weight"], p["up"], p["down"]
        return travel(p["x"], jnp.asarray(expert), *weights, each=ragged, place=place)

    return call


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("mesh", often(MESHES, ["2, rows and hidden"]))
def test_values_and_gradients(mesh, routing):
    expert = ROUTINGS[routing]
    call = caller(MESHES[mesh], expert)
    with float64():
        got = jax.jit(call)({name: jnp.asarray(a) for name, a in P.items()})
    np.testing.assert_allclose(got, form(P, expert), **TIGHT)
    check_gradients(call, lambda p: form(p, expert), P)


@pytest.mark.parametrize("mesh", MESHES)
def test_all_rows_of_all_devices(mesh):
    place = ExpertPlace.of(Layout.of(MESHES[mesh]), (ROWS, TIME, WIDTH), EXPERTS, HIDDEN)
    assert place is not None
    expert = ROUTINGS["any"]

    def call(p):
        picked = jax.nn.one_hot(expert, EXPERTS, dtype=p["x"].dtype)
        gate = jnp.einsum("btk,btke->bte", p["weight"], picked)
        return together(p["x"], gate, p["up"], p["down"], gated=gated, place=place)

    with float64():
        got = jax.jit(call)({name: jnp.asarray(a) for name, a in P.items()})
    np.testing.assert_allclose(got, form(P, expert), **TIGHT)
    check_gradients(call, lambda p: form(p, expert), P)


def test_tokens_travel_and_nothing_is_gathered():
    sizes = {"data": 2, "expert": 4}
    place = ExpertPlace.of(Layout.of(sizes), (8, 64, 16), 8, 32)
    assert place is not None
    shapes = ((8, 64, 16), "float32"), ((8, 64, 2), "int32"), ((8, 64, 2), "float32")
    shapes = (*shapes, ((8, 16, 32), "float32"), ((8, 32, 16), "float32"))
    specs = (place.tokens,) * 3 + (jax.sharding.PartitionSpec("expert"),) * 2
    given = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.NamedSharding(place.mesh, spec))
        for (shape, dtype), spec in zip(shapes, specs, strict=True)
    ]
    call = lambda *a: travel(*a, each=ragged, place=place)  # noqa: E731
    text = jax.jit(call).lower(*given).compile().as_text()
    found = costs(text, dict(place.mesh.shape)).collectives
    assert {one.opcode for one in found} <= {"all-to-all", "all-reduce"}
    travelled = [one for one in found if one.opcode == "all-to-all"]
    assert {one.axes for one in travelled} == {("expert",)}
    # 64 tokens of 2 choices on each device: a round sends 3/4 of 1.5 times as many, and back
    assert max(one.bytes for one in travelled) == 64 * 2 * 1.5 * 16 * 4 * 3 / 4
    # whether there is a further round is all that is asked of the others
    assert all(one.bytes <= 16 for one in found if one.opcode == "all-reduce")


def test_where_experts_or_tokens_are_whole_nothing_travels():
    shape = (ROWS, TIME, WIDTH)
    assert ExpertPlace.of(None, shape, EXPERTS, HIDDEN) is None
    assert ExpertPlace.of(Layout.of({"data": 4}), shape, EXPERTS, HIDDEN) is None
    assert ExpertPlace.of(Layout.of({"expert": 4}), shape, 3, HIDDEN) is None
    apart = Layout.of({"expert": 4}, activations={"batch": "data"})
    assert ExpertPlace.of(apart, shape, EXPERTS, HIDDEN) is None

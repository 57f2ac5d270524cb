"""Megablox inside a mesh: numbers where it is interpreted, and programs of the real compiler."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.layout import Layout
from fusekit.plan.compilers import ENVIRONMENT, devices
from fusekit.plan.hlo.costs import costs
from fusekit_modules.fusion._expert_parallel import ExpertPlace, stay, travel
from fusekit_modules.fusion._routing import ExpertMlps, ragged
from fusekit_modules.ops import Target
from fusekit_modules.ops.grouped_product import tpu
from fusekit_tpu.topology import Topology
from tests.ops.grouped.exact import experts, off

INTERPRETED = {"target": Target("tpu", interpret=True), "backend": "tpu"}
APART = {"batch": "data"}
"""Tokens are not split over the experts' axis, so that they stay."""


@pytest.mark.parametrize(
    ("sizes", "activations"),
    [({"data": 2, "expert": 2}, None), ({"data": 2, "expert": 2, "tensor": 2}, APART)],
    ids=["tokens travel", "tokens stay"],
)
def test_every_device_multiplies_by_its_own_experts(sizes, activations, monkeypatch):
    monkeypatch.setattr(tpu, "ROWS", 16)
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    x, weight, grad = normal(4, 5, 8), normal(4, 5, 2), normal(4, 5, 8)
    up, down = normal(4, 8, 12), normal(4, 12, 8)
    expert = np.array([rng.permutation(4)[:2] for _ in range(20)]).reshape(4, 5, 2)
    layout = Layout.of(sizes, activations=activations)
    place = ExpertPlace.of(layout, x.shape, 4, 12)
    assert (place is None) == (activations is not None)
    each = partial(ragged, how=INTERPRETED)
    options = {"layout": layout} if place is None else {"place": place}
    call = partial(stay if place is None else travel, each=each, **options)

    def both(x, weight, up, down):
        given = (x, weight, up, down)
        out, back = jax.vjp(lambda x, w, *mats: call(x, jnp.asarray(expert), w, *mats), *given)
        return out, back(grad)

    out, grads = jax.jit(both)(x, weight, up, down)
    due, owed = experts(x, expert, weight, up, down, grad)
    assert off(out, due) < 1e-5
    assert all(off(one, other) < 1e-5 for one, other in zip(grads, owed, strict=True))


def program(layout, rows, time, width, hidden):
    """Text of the gradients of experts as operators have them, and its temporaries."""

    def shape(sizes, dtype, axes, of=layout.of_stream):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=of(sizes, axes))

    def made():
        return ExpertMlps(8, width, hidden, dispatch="ragged", rngs=nnx.Rngs(0))

    graph, state = nnx.split(nnx.eval_shape(made))
    axes = {(8, width, hidden): ("expert", "embed", "mlp"), (8, hidden, width): ("expert", "mlp")}
    state = jax.tree.map(
        lambda one: shape(one.shape, one.dtype, (*axes[one.shape], None)[:3], layout.of_param),
        state,
    )
    tokens = shape((rows, time, width), jnp.bfloat16, ("batch", "time", None))
    expert = shape((rows * time, 2), jnp.int32, ("batch", None))
    weight = shape((rows * time, 2), jnp.float32, ("batch", None))
    context = Context(layout=layout, device=layout.mesh.devices.flat[0], path="it")

    def loss(state, tokens, weight, expert):
        out = nnx.merge(graph, state)(tokens, expert, weight, context=context)
        return jnp.sum(jnp.square(out.astype(jnp.float32)))

    done = jax.jit(jax.grad(loss, (0, 1, 2))).lower(state, tokens, weight, expert).compile()
    return done.as_text(), done.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "activations", "kernels", "sent"),
    [
        # of a first round 6: two forward, four backward; of further rounds one more forward, as
        # what goes in is made again
        ({"data": 2, "expert": 4}, None, 13, {"all-to-all", "all-reduce"}),
        ({"data": 2, "expert": 4}, APART, 6, {"all-reduce"}),
        ({"data": 2, "tensor": 4}, None, 6, {"all-reduce"}),
        ({"data": 8}, None, 6, {"all-reduce"}),
    ],
    ids=["tokens travel", "tokens stay", "hidden split", "rows alone"],
)
def test_it_compiles_inside_a_mesh_and_gathers_nothing(
    sizes, activations, kernels, sent, monkeypatch
):
    pytest.importorskip("libtpu")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    chips = devices(Topology.parse("v5e:2x4"))
    layout = Layout.of(sizes, devices=chips, activations=activations)
    text, temporaries = program(layout, 8, 512, 256, 512)
    assert text.count('custom_call_target="tpu_custom_call"') == kernels
    found = costs(text, dict(layout.mesh.shape)).collectives
    assert {one.opcode.removesuffix("-start") for one in found} == sent
    # hidden values of both copies of all tokens would be 2 x 4096 x 512 in bfloat16
    assert temporaries < 8 << 20

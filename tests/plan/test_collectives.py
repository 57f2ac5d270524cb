"""What the five strategies send over a mesh: nothing but what the layout asks for."""

import jax
import pytest

from fusekit.api import load_graph
from fusekit.batch import blank
from fusekit.config.compose import shipped
from fusekit.layout import Layout
from fusekit.plan.hlo.costs import costs
from fusekit.program import Program
from tests.support.often import often

STRATEGIES = ("early", "bottleneck", "low_rank_tensor", "expert_gate", "sequential")
SIZES = {"fsdp": 2, "tensor": 2}


def collectives(name):
    """Of the compiled train step, and the bytes of its parameters."""
    path = shipped() / "examples" / "digits" / f"{name}.yaml"
    _, graph = load_graph(path)
    layout = Layout.of(SIZES, devices=jax.devices()[:4])
    program = Program(graph, layout=layout, layers="unroll")
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)  # noqa: E731
    state = jax.tree.map(place, program.states.abstract, program.states.shardings)
    rows = jax.tree.map(lambda leaf: place(leaf, layout.batch(leaf)), blank(program.model, 16))
    text = program.compiled_step.lower(state, rows).compile().as_text()
    found = costs(text, dict(layout.mesh.shape))
    weights = sum(leaf.size * 4 for leaf in jax.tree.leaves(program.states.abstract.params))
    return found, weights


@pytest.mark.parametrize(
    "name",
    often(STRATEGIES, ["bottleneck"]),
)
def test_nothing_unexpected_is_sent(name):
    found, weights = collectives(name)
    assert {one.opcode for one in found.collectives} <= {
        "all-gather",
        "all-reduce",
        "reduce-scatter",
    }
    sent = found.ici_bytes_by_axes
    assert set(sent) <= {("fsdp",), ("tensor",), ("fsdp", "tensor")}
    # fsdp: weights are gathered forward and backward, and gradients summed, as an all-reduce at
    # most: (1 + 1 + 2) (f - 1) / f of them; and what is small goes over both axes at once
    assert sent["fsdp",] <= 2 * weights * 1.1
    assert sent.get(("fsdp", "tensor"), 0) <= 0.25 * weights
    assert found.dcn_bytes_by_axes == {}
    for one in found.collectives:
        if one.opcode == "all-gather" and one.axes == ("tensor",):
            assert one.bytes <= 0.25 * weights, one

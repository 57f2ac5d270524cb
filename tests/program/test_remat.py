"""Remat: every policy gives the same numbers, and keeps what it says."""

from collections import Counter

import jax
import numpy as np
import pytest

import fusekit
from fusekit.batch import blank
from fusekit.errors import ConfigError
from fusekit.jaxprs import equations
from fusekit.layout import Layout
from fusekit.plan.compilers import devices
from fusekit.program import Program
from fusekit.stream import Stream
from fusekit_tpu.topology import Topology
from tests.support.often import often
from tests.support.training import assert_close, trained

WIDTH, LENGTH, ROWS = 8, 5, 8
MLP = 3 * WIDTH
DEPTH = 2
POLICIES = ("full", "dots", "names", "offload")


def graph(mesh=None, **stack):
    return fusekit.resolve(
        fusekit.experiment(
            modalities={
                "a": {"type": "features", "width": WIDTH, "length": LENGTH, "optional": True},
                "label": {"type": "label", "classes": 3},
            },
            encoders={
                "a": {
                    "type": "transformer",
                    "depth": DEPTH,
                    "width": WIDTH,
                    "heads": 2,
                    "mlp_ratio": 3,
                    **stack,
                }
            },
            heads={"y": {"type": "classifier", "input": "a.mean", "classes": 3}},
            losses={"y": {"type": "cross_entropy", "prediction": "y", "target": "batch.label"}},
            train={
                "optimizer": {"type": "sgd", "momentum": 0.9},
                "learning_rate": 0.1,
                "steps": 10,
            },
            mesh=mesh or {},
        )
    )


def batch(seed=0):
    r = np.random.default_rng(seed)
    mask = np.arange(LENGTH) < r.integers(1, LENGTH + 1, (ROWS, 1))
    values = r.normal(size=(ROWS, LENGTH, WIDTH)).astype("float32")
    return {
        "a": Stream(values, mask, r.random(ROWS) < 0.7),
        "label": r.integers(0, 3, ROWS).astype("int32"),
    }


@pytest.fixture(scope="module")
def plain():
    """A step with dropout, without remat."""
    return trained(Program(graph(dropout=0.1), layers="unroll"), [batch()])


@pytest.mark.parametrize("layers", often(["scan", "unroll"], ["scan"]))
@pytest.mark.parametrize("remat", POLICIES)
def test_values_and_gradients_are_those_without_remat(remat, layers, plain):
    program = Program(graph({"remat": remat}, dropout=0.1), layers=layers)
    found = trained(program, [batch()])
    assert_close(found[0], plain[0], atol=2e-6)
    assert_close(found[1][0], plain[1][0], atol=1e-6)


@pytest.mark.parametrize("remat", often(["names", "offload"], ["names"]))
def test_on_a_mesh(remat, plain):
    layout = Layout.of({"data": 2, "fsdp": 2, "tensor": 2})
    found = trained(Program(graph({"remat": remat}, dropout=0.1), layout=layout), [batch()])
    assert_close(found[0], plain[0], atol=5e-6)


@pytest.mark.slow
def test_together_with_microbatches():
    layout = Layout.of({"data": 2, "fsdp": 2, "tensor": 2})
    mesh = {"remat": "names", "microbatches": 2}
    one = trained(Program(graph()), [batch()])
    other = trained(Program(graph(mesh), layout=layout, layers="scan"), [batch()])
    assert_close(other[0], one[0], atol=5e-6)
    assert_close(other[1][0], one[1][0], atol=1e-6, rtol=1e-5)


def traced(mesh=None, layers="unroll", **stack):
    """The jaxprs of the gradient, and of what the forward pass keeps for the backward pass."""
    program = Program(graph(mesh, **stack), layers=layers)
    params, variables = program.model.abstract()
    rows = program.batch(batch())

    def objective(params, rows):
        context = program.context("train", jax.random.key(0))
        return program.loss(params, variables_of(variables), rows, context)[0]

    def forward(params, rows):
        return jax.vjp(lambda p: objective(p, rows), params)[1]

    return [jax.make_jaxpr(f)(params, rows).jaxpr for f in (jax.grad(objective), forward)]


def variables_of(shapes):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def products(jaxpr):
    """How many products of matrices are computed, each layer of a scan counted once."""
    return Counter(e.primitive.name for e in equations(jaxpr))["dot_general"]


def kept(jaxpr):
    """Shapes of what is kept of activations, by how many of each there are."""
    given = {id(var) for var in jaxpr.invars}
    shapes = [var.aval.shape for var in jaxpr.outvars if id(var) not in given]
    return Counter(shape for shape in shapes if shape[:1] == (ROWS,))


HEADS = (ROWS, LENGTH, 2, WIDTH // 2)
SCORES = (ROWS, 2, LENGTH, LENGTH)
HIDDEN = (ROWS, LENGTH, MLP)


def test_what_each_policy_keeps():
    """Of two layers: scores never, hidden units and their slopes without remat, hidden units where
    they are products or named, and queries, keys, values and what was mixed without remat or where
    these are named."""
    without = kept(traced()[1])
    assert without[SCORES] == 0
    assert without[HIDDEN] == 2 * DEPTH
    assert without[HEADS] == 4 * DEPTH
    full = kept(traced({"remat": "full"})[1])
    assert full[SCORES] == full[HIDDEN] == full[HEADS] == 0
    dots = kept(traced({"remat": "dots"})[1])
    assert dots[SCORES] == 0
    assert dots[HIDDEN] == DEPTH
    assert dots[HEADS] == 3 * DEPTH
    names = kept(traced({"remat": "names"})[1])
    assert (names[SCORES], names[HIDDEN], names[HEADS]) == (0, DEPTH, 4 * DEPTH)
    some = kept(traced({"remat": "names", "saved": ["attention"]})[1])
    assert (some[SCORES], some[HIDDEN], some[HEADS]) == (0, 0, DEPTH)


def test_what_each_policy_computes_again():
    """Forward a layer has eight products: four projections, scores, what they mix, and two of the
    network. Of them `full` computes seven again (the last gives nothing that is needed), `dots` the
    two of attention, `names` the attention's last projection. The backward pass makes scores again
    in any case."""
    once = products(traced()[0])
    again = {remat: products(traced({"remat": remat})[0]) - once for remat in POLICIES}
    assert again == {"full": 7 * DEPTH, "dots": 2 * DEPTH, "names": DEPTH, "offload": DEPTH}
    chosen = traced({"remat": "names", "saved": ["mlp"]})[0]
    assert products(chosen) - once == 6 * DEPTH


def test_a_scan_keeps_the_same_of_each_layer():
    jaxpr = traced({"remat": "names"}, layers="scan")[1]
    shapes = Counter(var.aval.shape for var in jaxpr.outvars)
    assert shapes[DEPTH, *HIDDEN] == 1
    assert shapes[DEPTH, *HEADS] == 4
    assert shapes[DEPTH, *SCORES] == 0


def test_offloaded_values_leave_the_device():
    """What is named goes to the memory of the host, and back."""
    names = Counter(e.primitive.name for e in equations(traced({"remat": "offload"})[0]))
    assert names["device_put"] == 2 * 6 * DEPTH


def test_a_stack_has_the_last_word():
    once = products(traced()[0])
    assert products(traced({"remat": "full"}, remat="none")[0]) == once
    assert products(traced({"remat": "none"}, remat="full")[0]) == once + 7 * DEPTH


def test_names_that_no_layer_gives_are_refused():
    wrong = graph({"remat": "names", "saved": ["attention", "mpl"]})
    with pytest.raises(ConfigError) as error:
        Program(wrong)
    (problem,) = error.value.problems
    assert problem.path == ("mesh", "saved", 1)
    assert "mlp" in problem.nearest


def test_a_stack_without_names_cannot_keep_them():
    experiment = fusekit.experiment(
        modalities={
            "a": {"type": "image", "shape": [4, 4, 1]},
            "label": {"type": "label", "classes": 3},
        },
        encoders={"a": {"type": "conv", "widths": [4, 4], "remat": "names"}},
        heads={"y": {"type": "classifier", "input": "a.mean", "classes": 3}},
        losses={"y": {"type": "cross_entropy", "prediction": "y", "target": "batch.label"}},
    )
    wrong = fusekit.resolve(experiment)
    with pytest.raises(ConfigError) as error:
        Program(wrong)
    (problem,) = error.value.problems
    assert problem.path == ("encoders", "a", "remat")
    assert "full" in problem.expected


@pytest.mark.slow
def test_offloading_compiles_for_a_tpu_and_takes_room_on_the_host():
    """Named activations of eight layers lie in the memory of the host, none do otherwise."""
    pytest.importorskip("libtpu")
    topology = Topology.parse("v5e:2x2")
    layout = Layout.of({"data": 2, "fsdp": 2}, devices=devices(topology))
    found = {}
    for remat in ("names", "offload"):
        program = Program(graph({"remat": remat}, depth=8), layout=layout, layers="scan")
        given = program.states.abstract, blank(program.model, ROWS)
        places = program.states.shardings, jax.tree.map(layout.batch, given[1])
        state, rows = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            given,
            places,
        )
        found[remat] = program.compiled_step.lower(state, rows).compile().memory_analysis()
    assert found["names"].host_temp_size_in_bytes == 0
    floats = 8 * (ROWS // 4) * LENGTH * (MLP + 4 * WIDTH)
    assert found["offload"].host_temp_size_in_bytes >= 4 * floats

"""The program: the same numbers however it is held, and the invariants on toys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import ConfigError, DataError, LayoutError
from fusekit.graph import resolve
from fusekit.graph.schedule import Scan
from fusekit.jaxprs import equations
from fusekit.layout import Layout
from fusekit.program import Program
from fusekit.stream import Stream
from tests.support import strategies, toys
from tests.support.meshes import CUBE
from tests.support.often import often

GRAPH = resolve(toys.two_stacks(depth=6))


def train(program, steps=3, seed=0):
    """Trains on fixed batches; gives the flat state before and after, and the losses."""
    state = program.init(seed)
    before = {k: np.array(v) for k, v in program.flat(program.replica(state, 0)).items()}
    losses = []
    for step in range(steps):
        state, metrics = program.step(state, toys.batch(step))
        losses.append(np.asarray(metrics["loss"]))
    after = {k: np.array(v) for k, v in program.flat(program.replica(state, 0)).items()}
    return before, after, losses


@pytest.fixture(scope="module")
def unrolled():
    return train(Program(GRAPH, layers="unroll"))


def assert_same(one, other, tolerance=2e-5):
    assert one.keys() == other.keys()
    for name in one:
        gap = np.abs(np.asarray(one[name], "float64") - np.asarray(other[name], "float64"))
        assert gap.max(initial=0) <= tolerance, name


def test_scan_gives_the_same_training_and_paths(unrolled):
    program = Program(GRAPH, layers="scan")
    scans = [item for item in program.model.items if isinstance(item, Scan)]
    assert [(s.count, len(s.repeats[0])) for s in scans] == [(2, 1), (2, 1), (4, 4)]
    before, after, losses = train(program)
    assert_same(before, unrolled[0], 1e-6)
    assert_same(after, unrolled[1])
    np.testing.assert_allclose(losses, unrolled[2], rtol=1e-5)


@pytest.mark.parametrize(
    "mesh", often([CUBE, {"fsdp": 4, "tensor": 2}, {"data": -1}], [CUBE, {"data": -1}])
)
@pytest.mark.parametrize("layers", often(["scan", "unroll"], ["scan"]))
def test_any_mesh_gives_the_single_device_training(mesh, layers, unrolled):
    before, after, losses = train(Program(GRAPH, layers=layers, layout=Layout.of(mesh)))
    assert_same(before, unrolled[0], 1e-6)
    assert_same(after, unrolled[1], 5e-5)
    np.testing.assert_allclose(losses, unrolled[2], rtol=1e-5)


def test_optimiser_moments_are_sharded_like_their_parameters():
    program = Program(GRAPH, layers="scan", layout=Layout.of({"fsdp": 4, "tensor": 2}))
    state = program.init(0)
    kernels = [
        leaf.sharding.spec
        for name, leaf in program.flat(state).items()
        if name.endswith("a.layers.1.kernel")
    ]
    assert len(kernels) == 2
    assert {tuple(spec) for spec in kernels} == {("fsdp", "tensor")}


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_a_replica_is_its_seed_trained_alone(mode, unrolled):
    program = Program(GRAPH, layers="scan", replicas=3, mode=mode)
    before, after, losses = train(program)
    assert_same(before, unrolled[0], 1e-6)
    assert_same(after, unrolled[1])
    assert losses[0].shape == (3,)
    alone = train(Program(GRAPH, layers="unroll"), seed=2)
    np.testing.assert_allclose([loss[2] for loss in losses], alone[2], rtol=1e-5)


def test_a_state_restores_under_every_other_way_of_holding_it(unrolled):
    for program in (
        Program(GRAPH, layers="scan"),
        Program(GRAPH, layers="unroll", layout=Layout.of({"data": 2, "fsdp": 2, "tensor": 2})),
    ):
        state = program.restored(unrolled[1])
        assert_same(program.flat(state), unrolled[1], 0)


def test_an_operator_added_elsewhere_moves_no_parameter(unrolled):
    fusion = {
        "mix": {"type": "toy_exchange", "into": ["a@2..", "b@2.."]},
        "add": {"type": "toy_add", "inputs": ["b@0"], "into": "a@1"},
    }
    program = Program(resolve(toys.two_stacks(depth=6, fusion=fusion)), layers="scan")
    flat = program.flat(program.init(0))
    shared = [name for name in unrolled[0] if name.startswith("params.")]
    assert set(shared) < set(flat)
    for name in shared:
        np.testing.assert_array_equal(flat[name], unrolled[0][name])


def test_absent_and_padded_contents_change_nothing_bit_for_bit():
    program = Program(GRAPH, layers="scan")
    results = []
    for garbage in (0.0, np.nan, np.inf, 1e30):
        state, metrics = program.step(program.init(0), toys.batch(0, garbage=garbage))
        results.append((program.flat(state), metrics))
    for flat, metrics in results[1:]:
        for name, value in results[0][0].items():
            np.testing.assert_array_equal(flat[name], value, err_msg=name)
        for name, value in results[0][1].items():
            np.testing.assert_array_equal(metrics[name], value, err_msg=name)


def test_one_compilation_whatever_is_present():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compiled.append(event) if event.endswith("backend_compile_duration") else None
        )
    )
    program = Program(GRAPH, layers="scan")
    state = program.init(0)
    state, _ = program.step(state, toys.batch(0))
    count = len(compiled)
    for absent in (0.0, 1.0, 0.5):
        state, metrics = program.step(state, toys.batch(1, absent=absent))
        assert np.isfinite(float(metrics["loss"]))
    bare = {name: s.values if isinstance(s, Stream) else s for name, s in toys.batch(1).items()}
    bare["a"] = np.nan_to_num(bare["a"])
    program.step(state, bare)
    assert len(compiled) == count


def test_a_loss_without_a_valid_row_is_zero_with_zero_gradient():
    graph = resolve(toys.one_stack())
    program = Program(graph)
    state = program.init(0)
    before = {k: np.array(v) for k, v in program.parameters(state).items()}
    batch = toys.batch(0, absent=1.1, names=("a", "y"))
    state, metrics = program.step(state, batch)
    assert float(metrics["loss"]) == 0.0
    assert float(metrics["gradient_norm"]) == 0.0
    for name, value in program.parameters(state).items():
        np.testing.assert_array_equal(value, before[name])


def test_frozen_parameters_stay_bit_identical_and_hold_no_moments():
    experiment = toys.two_stacks(train={"trainable": ["mix", "a.layers.3", "h"]})
    program = Program(resolve(experiment), layers="scan")
    before, after, _ = train(program)
    moved = {
        name.removeprefix("params.")
        for name in before
        if name.startswith("params.") and not np.array_equal(before[name], after[name])
    }
    assert "a.layers.3.kernel" in moved
    assert "mix.tokens" in moved
    for name in moved:
        assert name.startswith(("mix.", "a.layers.3.", "h."))
    assert not [n for n in after if n.startswith("optimizer") and "b.layers" in n]


def test_loss_and_gradient_against_numpy():
    """One stack of one layer, by hand: mean of valid tokens m; x + tanh(m W); head; square."""
    graph = resolve(toys.one_stack(depth=1))
    program = Program(graph)
    state = program.init(0)
    params = {k: np.array(v, "float64") for k, v in program.parameters(state).items()}
    batch = toys.batch(3, names=("a", "y"))
    mask = batch["a"].mask & batch["a"].presence[:, None]
    x = np.where(mask[..., None], batch["a"].values, 0).astype("float64")
    y, rows = batch["y"].astype("float64"), batch["a"].presence

    def loss(w, v, s):
        n = np.maximum(mask.sum(1), 1)[:, None]
        mean = x.sum(1) / n
        out = (x + np.tanh(mean @ w)[:, None]) * mask[..., None]
        answer = (out.sum(1) / n) @ v
        return (s * (answer - y)[rows] ** 2).mean()

    w, v, s = params["a.layers.0.kernel"], params["h.kernel"], params["losses.l.scale"][0]
    context = program.context("evaluate", None)
    prepared = program.batch(batch)
    value, grads = jax.value_and_grad(
        lambda p: program.loss(p, state.variables, prepared, context)[0]
    )(state.params)
    np.testing.assert_allclose(float(value), loss(w, v, s), rtol=1e-5)
    flat = program.parameters(state.with_(params=grads))
    eps = 1e-6
    for i in range(4):
        step = np.zeros(4)
        step[i] = eps
        central = (loss(w, v + step, s) - loss(w, v - step, s)) / (2 * eps)
        np.testing.assert_allclose(flat["h.kernel"][i], central, rtol=1e-4, atol=1e-6)
        for j in range(4):
            bump = np.zeros((4, 4))
            bump[i, j] = eps
            central = (loss(w + bump, v, s) - loss(w - bump, v, s)) / (2 * eps)
            np.testing.assert_allclose(
                flat["a.layers.0.kernel"][i, j], central, rtol=1e-3, atol=1e-5
            )


def test_predict_needs_no_target_and_answers_for_each_head():
    program = Program(GRAPH, layers="scan")
    state = program.init(0)
    given = toys.batch(0)
    del given["y"]
    out = program.predict(state, given)
    assert set(out) == {"h", "g", "k"}
    np.testing.assert_array_equal(out["h"].presence, given["a"].presence)
    assert not np.asarray(out["h"].values)[~given["a"].presence].any()


def test_a_head_over_several_points_answers_each_with_the_same_weights():
    heads = {"h": {"type": "toy_head", "input": "a@0..2.mean"}}
    program = Program(resolve(toys.one_stack(heads=heads)), layers="scan")
    state = program.init(0)
    out = program.predict(state, toys.batch(0, names=("a", "y")))
    assert sorted(out) == ["h@0", "h@1", "h@2"]
    assert [n for n in program.parameters(state) if n.startswith("h")] == ["h.kernel"]
    assert not np.allclose(out["h@0"].values, out["h@2"].values)


def test_a_batch_that_does_not_fit():
    program = Program(GRAPH)
    given = toys.batch(0)
    wrong = {**given, "v": np.zeros((8, 5), "float32"), "bb": given["b"]}
    del wrong["b"]
    with pytest.raises(DataError, match=r"the batch has no b \(bb.*v has shape \(8, 5\)"):
        program.batch(wrong)


def test_a_mesh_that_does_not_fit():
    with pytest.raises(LayoutError, match="needs 16 devices; there are 8"):
        Layout.of({"data": 16})
    program = Program(GRAPH, layout=Layout.of({"data": 8}))
    with pytest.raises(LayoutError, match="a batch of 6"):
        program.batch(toys.batch(0, size=6))


def test_collected_side_outputs_are_the_same_scanned():
    found = []
    for layers in ("scan", "unroll"):
        program = Program(GRAPH, layers=layers)
        state = program.init(0)
        from fusekit.context import Collector

        collector = Collector(("mean",))
        context = program.context("evaluate", None, collector)
        program.model.apply(
            state.params, state.variables, program.batch(toys.batch(0)), context=context
        )
        found.append(collector.found)
    assert found[0].keys() == found[1].keys()
    for name, values in found[1].items():
        assert len(values) == 6
        for one, other in zip(found[0][name], values, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def in_dtype(compute):
    """A transformer, computed in a dtype."""
    encoders = {"a": {**strategies.STACK, "depth": 1}}
    heads = strategies.classifiers(y="a.mean")
    experiment = strategies.declared({"a": strategies.SEQUENCES["a"]}, encoders, {}, heads)
    train = experiment.train.model_copy(update={"compute": compute})
    return Program(resolve(experiment.model_copy(update={"train": train})))


def operands(program):
    """The dtypes of all that is multiplied by a matrix on the way to the loss."""

    def loss(params, variables, batch):
        context = program.context("train", jax.random.key(0))
        return program.loss(params, variables, batch, context)[0]

    batch = program.batch(strategies.batch(program.graph, 0))
    jaxpr = jax.make_jaxpr(loss)(*program.model.abstract(), batch).jaxpr
    found = [e for e in equations(jaxpr) if e.primitive.name == "dot_general"]
    return {v.aval.dtype for equation in found for v in equation.invars}


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    program = in_dtype("bfloat16")
    assert operands(program) == {jnp.dtype("bfloat16")}
    assert operands(in_dtype("float32")) == {jnp.dtype("float32")}
    state, metrics = program.step(program.init(0), strategies.batch(program.graph, 0))
    assert np.isfinite(float(metrics["loss"]))
    held = jax.tree.leaves((state.params, state.optimizer))
    assert {leaf.dtype for leaf in held if leaf.dtype != jnp.int32} == {jnp.dtype("float32")}


def test_patterns_that_match_nothing_are_reported_together():
    experiment = toys.two_stacks(
        train={"trainable": ["mixx", "a.layers.3"], "groups": {"g": {"paths": ["*.kernle"]}}},
        mesh={"params": {"embde": "fsdp"}},
    )
    with pytest.raises(ConfigError) as error:
        Program(resolve(experiment))
    text = str(error.value)
    assert len(error.value.problems) == 3
    assert "train.trainable.0: no parameter has this path" in text
    assert "did you mean: mix" in text
    assert "mesh.params.embde" in text
    assert "did you mean: embed" in text

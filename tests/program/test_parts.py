"""Parts: what they run is what a config that spells it out would run, with the same weights."""

import jax
import numpy as np
import pytest

import fusekit
from fusekit.context import Context
from fusekit.errors import ConfigError
from fusekit.graph.node import Key
from fusekit.model import FusionModel
from fusekit.objective import loss
from fusekit.stream import Stream
from tests.support.often import often

ROWS, LENGTH = 3, 3
STACK = {"type": "transformer", "depth": 3, "width": 4, "heads": 2, "mlp_ratio": 1}
MODALITIES = {
    "a": {"type": "features", "width": 4, "length": LENGTH, "optional": True, "keep": True},
    "b": {"type": "features", "width": 4, "length": LENGTH, "optional": True, "keep": True},
    "c": {"type": "features", "width": 4, "length": 2},
    "y": {"type": "label", "classes": 3},
}
CROSS = {"type": "cross_attention", "inputs": ["c"], "into": "trunk@1.."}
LOSS = {"type": "cross_entropy", "target": "batch.y"}
RNG = np.random.default_rng(0)
BATCH = {
    "a": RNG.normal(size=(ROWS, LENGTH, 4)).astype("f"),
    "b": RNG.normal(size=(ROWS, LENGTH, 4)).astype("f"),
    "c": RNG.normal(size=(ROWS, 2, 4)).astype("f"),
    "y": np.asarray([0, 2, 1]),
}


def declared(parts=None, losses=("y",), **changes):
    """A trunk over `a` that reads `c` from layer 1 on, with losses on these nodes."""
    if not isinstance(losses, dict):
        losses = {f"l{n}": {**LOSS, "prediction": name} for n, name in enumerate(losses)}
    sections = {
        "modalities": MODALITIES,
        "encoders": {"trunk": {**STACK, "input": "batch.a"}, "c": STACK},
        "fusion": {"cross": CROSS},
        "heads": {"y": {"type": "classifier", "input": "trunk.mean", "classes": 3}},
        "losses": losses,
        "parts": parts or {},
        "train": {"optimizer": {"type": "sgd"}, "learning_rate": 0.1, "steps": 10},
    }
    return fusekit.experiment(**{**sections, **changes})


def answers(experiment, names, params=None, *, scan=0):
    """The values of heads in evaluation, and the parameters by canonical path."""
    program = fusekit.compile(experiment, layers="scan" if scan else "unroll")
    state = program.init(0)
    if params is not None:
        flat = {**program.flat(state), **{f"params.{p}": v for p, v in params.items()}}
        state = program.restored({k: v for k, v in flat.items() if k in program.flat(state)})
    wanted = [Key("out", name) for name in names]

    @jax.jit
    def run(params, variables, batch):
        context = Context()
        apply = program.model.apply
        values, _ = apply(params, variables, batch, context=context, wanted=wanted)
        return [values[key].values for key in wanted]

    found = run(state.params, state.variables, program.batch(BATCH))
    return [np.asarray(one) for one in found], program.parameters(state)


@pytest.mark.parametrize("scan", often([0, 1], [0]))
def test_a_tied_part_is_the_same_piece_with_another_input(scan):
    parts = {"other": {"of": ["y"], "given": {"batch.a": "batch.b"}}}
    both = declared(parts, ("y", "other.y"))
    (first, second), params = answers(both, ["y", "other.y"], scan=scan)
    assert not any(path.startswith("other") for path in params)
    swapped = declared(
        encoders={"trunk": {**STACK, "input": "batch.b"}, "c": STACK},
    )
    (alone,), _ = answers(declared(), ["y"], params)
    (other,), _ = answers(swapped, ["y"], params)
    np.testing.assert_allclose(first, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second, other, rtol=1e-5, atol=1e-6)
    assert np.abs(first - second).max() > 0.05


def test_gradients_of_a_tied_part_add_to_those_of_the_original():
    parts = {"other": {"of": ["y"], "given": {"batch.a": "batch.b"}}}
    program = fusekit.compile(declared(parts, ("y", "other.y")))
    state, batch = program.init(0), program.batch(BATCH)

    def gradients(names):
        def total(params):
            context = Context(mode="evaluate")
            return loss(program.model, params, state.variables, batch, context, names)[0]

        found = jax.jit(jax.grad(total))(state.params)
        return jax.tree.leaves({k: v for k, v in found.items() if "losses" not in k})

    each = (gradients(names) for names in (("l0",), ("l1",), ("l0", "l1")))
    for one, other, both in zip(*each, strict=True):
        np.testing.assert_allclose(one + other, both, rtol=1e-4, atol=1e-6)


def test_a_part_without_an_operator_is_the_stack_alone_and_shares_what_comes_before():
    parts = {"plain": {"of": ["y"], "without": ["cross"]}}
    experiment = declared(parts, ("y", "plain.y"))
    graph = fusekit.resolve(experiment)
    own = [(e.kind, e.index) for e in graph.events if e.node == "plain.trunk"]
    assert own == [("layer", 1), ("layer", 2), ("end", 0)]
    (_, plain), params = answers(experiment, ["y", "plain.y"])
    bare = declared(
        fusion={}, encoders={"trunk": {**STACK, "input": "batch.a"}, "c": {**STACK, "keep": True}}
    )
    (alone,), _ = answers(bare, ["y"], params)
    np.testing.assert_allclose(plain, alone, rtol=1e-5, atol=1e-6)


def test_what_would_be_the_same_is_not_run_again():
    parts = {"other": {"of": ["y"], "given": {"batch.a": "batch.b"}}}
    graph = fusekit.resolve(declared(parts, ("y", "other.y")))
    assert "other.c" not in graph.nodes
    assert {"other.trunk", "other.cross", "other.y"} <= set(graph.nodes)


def test_a_point_may_be_replaced_and_layers_before_it_are_not_run():
    parts = {"late": {"of": ["y"], "given": {"trunk@1": "c@1"}}}
    experiment = declared(
        parts,
        ("y", "late.y"),
        fusion={},
        encoders={"trunk": {**STACK, "input": "batch.a"}, "c": STACK},
    )
    graph = fusekit.resolve(experiment)
    own = [(e.kind, e.index) for e in graph.events if e.node == "late.trunk"]
    assert own == [("layer", 2), ("end", 0)]
    (_, late), params = answers(experiment, ["y", "late.y"])
    # by hand: the last layer, end and head of `trunk` on the second layer's output of `c`
    spliced = {
        **params,
        **{
            p.replace("trunk.layers.2", "c.layers.2"): v
            for p, v in params.items()
            if p.startswith("trunk.layers.2")
        },
        **{
            p.replace("trunk.end", "c.end"): v
            for p, v in params.items()
            if p.startswith("trunk.end")
        },
    }
    by_hand = declared(
        fusion={},
        encoders={"trunk": {**STACK, "input": "batch.a", "keep": True}, "c": STACK},
        heads={"y": {"type": "classifier", "input": "c.mean", "classes": 3}},
    )
    (due,), _ = answers(by_hand, ["y"], spliced)
    np.testing.assert_allclose(late, due, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layers", often(["unroll", "scan"], ["scan"]))
def test_an_average_begins_equal_follows_by_its_decay_and_gives_no_gradient(layers):
    parts = {"teacher": {"of": ["y"], "weights": {"type": "ema", "decay": 0.75}}}
    losses = {
        "y": {**LOSS, "prediction": "y"},
        "near": {"type": "squared_error", "prediction": "y", "target": "teacher.y"},
    }
    program = fusekit.compile(declared(parts, losses), layers=layers)
    state = program.init(0)
    before = jax.tree.map(np.asarray, program.parameters(state))
    followers = [path for path in before if path.startswith("teacher.")]
    assert followers
    for path in followers:
        np.testing.assert_array_equal(before[path], before[path.removeprefix("teacher.")])
    moments = jax.tree_util.tree_leaves_with_path(state.optimizer)
    assert not any("teacher" in jax.tree_util.keystr(path) for path, _ in moments)
    state, _ = program.step(state, BATCH)
    after = jax.tree.map(np.asarray, program.parameters(state))
    for path in followers:
        now = after[path.removeprefix("teacher.")]
        np.testing.assert_allclose(
            after[path], 0.75 * before[path] + 0.25 * now, rtol=1e-5, atol=1e-7
        )
    assert any(np.any(after[p] != before[p]) for p in followers)


@pytest.mark.slow
def test_a_copy_begins_equal_and_trains_by_itself():
    parts = {"copy": {"of": ["y"], "weights": "start", "given": {"batch.a": "batch.b"}}}
    program = fusekit.compile(declared(parts, ("y", "copy.y")))
    state = program.init(0)
    before = jax.tree.map(np.asarray, program.parameters(state))
    copies = [path for path in before if path.startswith("copy.")]
    for path in copies:
        np.testing.assert_array_equal(before[path], before[path.removeprefix("copy.")])
    state, _ = program.step(state, BATCH)
    after = jax.tree.map(np.asarray, program.parameters(state))
    assert any(np.any(after[p] != after[p.removeprefix("copy.")]) for p in copies)


@pytest.mark.slow
def test_an_operator_may_act_on_a_part_alone():
    parts = {"second": {"of": ["y"]}}
    experiment = declared(
        parts,
        ("y", "second.y"),
        fusion={"cross": {**CROSS, "into": "second.trunk@1.."}},
    )
    (first, second), params = answers(experiment, ["y", "second.y"])
    (alone,), _ = answers(
        declared(
            fusion={},
            encoders={"trunk": {**STACK, "input": "batch.a"}, "c": {**STACK, "keep": True}},
        ),
        ["y"],
        params,
    )
    (edited,), _ = answers(declared(), ["y"], params)
    np.testing.assert_allclose(first, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second, edited, rtol=1e-5, atol=1e-6)


def test_a_part_of_a_part_runs_with_its_weights():
    parts = {
        "teacher": {"of": ["y"], "weights": {"type": "ema", "decay": 0.5}},
        "again": {"of": ["teacher.y"], "given": {"batch.a": "batch.b"}},
    }
    graph = fusekit.resolve(declared(parts, ("y", "again.y")))
    model = FusionModel(graph)
    assert not any(name.startswith("again") for name in model.groups)
    assert any(name.startswith("teacher.trunk") for name in model.groups)


def test_absence_passes_into_a_part():
    parts = {"other": {"of": ["y"], "given": {"batch.a": "batch.b"}}}
    experiment = declared(parts, ("y", "other.y"))
    has = np.asarray([True, False, True])
    wild = {"a": BATCH["a"], "b": np.where(has[:, None, None], BATCH["b"], np.nan)}
    program = fusekit.compile(experiment)
    losses = []
    for b in (BATCH["b"], wild["b"]):
        state = program.init(0)
        _, metrics = program.step(state, {**BATCH, "b": Stream(b, presence=has)})
        losses.append(float(metrics["losses.l1"]))
    assert losses[0] == losses[1]
    assert np.isfinite(losses[0])


FAULTS = {
    "unknown of": ({"p": {"of": ["yy"]}}, "no node is called yy"),
    "unused": ({"p": {"of": ["y"]}}, "nothing uses p"),
    "given unread": (
        {"p": {"of": ["y"], "given": {"batch.y": "batch.b"}}},
        "nothing that p runs reads batch.y",
    ),
    "without": ({"p": {"of": ["y"], "without": ["crss"]}}, "no operator is called crss"),
    "circle": (
        {"p": {"of": ["q.y"]}, "q": {"of": ["p.y"]}},
        "parts repeat one another in a circle",
    ),
    "taken": ({"trunk": {"of": ["y"]}}, "`trunk` is taken"),
    "decay": ({"p": {"of": ["y"], "weights": {"type": "ema", "decay": 1.0}}}, "out of range"),
    "weights": ({"p": {"of": ["y"], "weights": "tide"}}, "is not what is due here"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told(fault):
    parts, message = FAULTS[fault]
    with pytest.raises(ConfigError) as caught:
        fusekit.resolve(declared(parts))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("part", "fusion", "message"),
    [
        ({}, {"cross": {**CROSS, "into": "p.trunk@9"}}, "layer 9 does not exist"),
        ({"without": ["crss", "cross"]}, {"cross": CROSS}, "no operator is called crss"),
        ({"given": {"trunk@1": "c@7"}}, {"cross": CROSS}, "layer 7 does not exist"),
    ],
)
def test_faults_beside_sound_parts_are_told_too(part, fusion, message):
    with pytest.raises(ConfigError) as caught:
        fusekit.resolve(declared({"p": {"of": ["y"], **part}}, ("y", "p.y"), fusion=fusion))
    assert message in str(caught.value)


def test_a_node_that_a_part_does_not_run_is_told_with_those_that_it_does():
    parts = {"p": {"of": ["y"], "given": {"batch.a": "batch.b"}}}
    with pytest.raises(ConfigError) as caught:
        fusekit.resolve(declared(parts, ("y", "p.z")))
    assert "the part p runs nothing that is called z" in str(caught.value)
    assert "p.y" in str(caught.value)


def test_weights_that_do_not_fit_are_told():
    modalities = {**MODALITIES, "b": {"type": "features", "width": 5, "length": LENGTH}}
    parts = {"p": {"of": ["y"], "given": {"batch.a": "batch.b"}}}
    with pytest.raises(ConfigError) as caught:
        fusekit.compile(declared(parts, ("y", "p.y"), modalities=modalities))
    assert "weights of trunk do not fit p.trunk" in str(caught.value)

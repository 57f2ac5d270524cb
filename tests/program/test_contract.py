"""What a program promises of batches, layers, moments and randomness, each held on a small case."""

from typing import Literal

import jax
import numpy as np
import pytest
from flax import nnx

import fusekit
import fusekit_modules  # noqa: F401 - registers the components
from fusekit.batch import blank
from fusekit.component import StackSpec, register
from fusekit.errors import DataError
from fusekit.graph import resolve
from fusekit.graph.node import Key
from fusekit.layered import LayerOutput
from fusekit.layout import Layout
from fusekit.program import Program
from fusekit.stream import Stream
from tests.support import toys


@register
class AlternatingSpec(StackSpec):
    """Every second layer adds ten."""

    type: Literal["toy_alternating"] = "toy_alternating"
    depth: int = 3

    def layers(self):
        return self.depth

    def infer_start(self, inputs):
        return inputs["input"]

    def build(self, inputs, *, rngs):
        return toys.Shell()

    def build_layer(self, index, stream, *, rngs):
        return Alternating(10.0 * (index % 2))


class Alternating(nnx.Module):
    def __init__(self, step):
        self.step = step

    def __call__(self, stream, edits, *, context):
        return LayerOutput(stream.with_(values=stream.values + self.step))


@pytest.mark.parametrize("layers", ["scan", "unroll"])
@pytest.mark.parametrize(("depth", "added"), [(3, 10), (4, 20)])
def test_layers_between_equal_ends_are_their_own(depth, added, layers):
    declared = toys.one_stack(encoders={"a": {"type": "toy_alternating", "depth": depth}})
    program = Program(resolve(declared), layers=layers)
    state = program.init(0)
    answer = program.predict(state, {"a": np.zeros((2, 5, 4), "float32")})["h"].values
    kernel = program.parameters(state)["h.kernel"]
    np.testing.assert_allclose(answer, added * np.sum(kernel), rtol=1e-6)


PROGRAM = Program(resolve(toys.two_stacks(depth=3)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"v": np.ones((5, 4), "float32")}, "v has 5 rows; the batch has 8"),
        (
            {"v": Stream(np.ones((8, 4), "float32"), presence=np.arange(8) > 2)},
            "the presence of v is not all true, but v is not optional",
        ),
        (
            {"a": Stream(np.ones((8, 5, 4), "float32"), np.ones((8, 4), bool))},
            r"the mask of a has shape \(8, 4\); expected \(8, 5\)",
        ),
        (
            {"a": Stream(np.ones((8, 5, 4), "float32"), presence=np.ones(7, bool))},
            r"the presence of a has shape \(7,\); expected \(8,\)",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(changes, said):
    with pytest.raises(DataError, match=said):
        PROGRAM.batch(toys.batch() | changes)


def test_masks_of_numbers_are_masks():
    given = toys.batch()
    mask = given["a"].mask
    other = given | {"a": given["a"].with_(mask=mask.astype("float32"))}
    found = PROGRAM.batch(other)["a"].mask
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_rows_that_fill_a_batch_up_may_hold_anything():
    valid = np.arange(8) < 6
    given = toys.batch()
    results = []
    for filler in (0.0, np.nan):
        v = np.where(valid[:, None], given["v"], filler).astype("float32")
        state = PROGRAM.init(0)
        state, metrics = PROGRAM.step(state, given | {"v": v, "valid": valid})
        results.append(jax.device_get((metrics, PROGRAM.flat(state))))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert np.isfinite(results[1][0]["gradient_norm"])


def test_what_only_a_metric_reads_is_frozen():
    mlp = {"type": "mlp", "width": 8, "input": "batch.a"}
    declared = fusekit.experiment(
        modalities={
            "a": {"type": "features", "width": 4},
            "label": {"type": "label", "classes": 3},
        },
        encoders={"used": mlp, "watched": mlp},
        heads={
            "out": {"type": "classifier", "input": "used", "classes": 3},
            "probe": {"type": "classifier", "input": "watched", "classes": 3},
        },
        losses={"fit": {"type": "cross_entropy", "prediction": "out", "target": "batch.label"}},
        metrics={"seen": {"type": "accuracy", "prediction": "probe", "target": "batch.label"}},
        train={"optimizer": {"type": "adamw", "weight_decay": 0.5}, "learning_rate": 0.1},
    )
    program = fusekit.compile(declared, steps=10)
    state = program.init(0)
    before = jax.device_get(program.parameters(state))
    state, _ = program.step(state, {"a": np.ones((4, 4), "float32"), "label": np.zeros(4, "int32")})
    moved = {
        path.split(".")[0]
        for path, value in program.parameters(state).items()
        if not np.array_equal(before[path], value)
    }
    assert moved == {"used", "out"}
    assert not [path for path in program.flat(state) if "optimizer" in path and "probe" in path]


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lamb"])
def test_moments_of_matrices_lie_as_their_parameters(optimizer):
    declared = toys.one_stack(
        depth=3,
        encoders={"a": {"type": "transformer", "depth": 3, "width": 8, "heads": 2}},
        modalities={
            "a": {"type": "features", "width": 8, "length": 5},
            "y": {"type": "toy_number"},
        },
        train={"optimizer": {"type": optimizer}},
    )
    layout = Layout.of({"fsdp": 4, "tensor": 2})
    program = Program(resolve(declared), layers="scan", layout=layout)
    moments = [
        leaf
        for name, leaf in program.flat(program.init(0)).items()
        if name.startswith("optimizer") and name.endswith("mlp.up.kernel")
    ]
    assert moments
    for leaf in moments:
        assert set(leaf.sharding.spec) >= {"fsdp", "tensor"}, leaf.sharding


@pytest.mark.slow
def test_replicas_on_a_mesh_compile_once(caplog):
    layout = Layout.of({"fsdp": 2, "tensor": 2})
    program = Program(resolve(toys.two_stacks(depth=3)), layout=layout, replicas=2, mode="vmap")
    state = program.init(0)
    state, _ = program.step(state, toys.batch(0))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for step in range(2):
            state, _ = program.step(state, toys.batch(step))
    assert not [r for r in caplog.records if "_step" in r.getMessage()]


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_an_edited_stream_keeps_its_dtype(layers):
    declared = toys.one_stack(
        modalities_too=("b",),
        fusion={"add": {"type": "toy_add", "inputs": ["batch.b"], "into": "a@.."}},
        heads={"h": {"type": "toy_head", "input": "a@2.mean"}},
        train={"compute": "bfloat16"},
    )
    program = Program(resolve(declared), layers=layers)
    params, variables = program.model.abstract()
    context = program.context("train", jax.random.key(0))

    def third(params, variables, batch):
        values, _ = program.model.apply(params, variables, batch, context=context)
        return values[Key("layer", "a", 2)].values

    assert jax.eval_shape(third, params, variables, blank(program.model, 2)).dtype == "bfloat16"


def test_a_restored_state_is_a_copy():
    state = PROGRAM.init(0)
    other = PROGRAM.restored(PROGRAM.flat(state))
    PROGRAM.step(other, toys.batch())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(PROGRAM.parameters(state)))


def test_a_role_may_have_any_name():
    declared = toys.one_stack(
        encoders={
            "a": {"type": "toy_stack"},
            "raw": {"type": "mlp", "input": "a.mean", "width": 4},
        },
        fusion={"joint": {"type": "concat", "inputs": {"raw": "raw", "state": "a.last"}}},
        heads={"h": {"type": "toy_head", "input": "joint"}},
    )
    program = Program(resolve(declared))
    _, metrics = program.step(program.init(0), toys.batch())
    assert np.isfinite(metrics["loss"])

"""Microbatches mean the whole batch: the same losses, gradients and state."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fusekit
from fusekit.component import LossSpec, LossValue, register
from fusekit.config.reference import Ref
from fusekit.errors import ConfigError, LayoutError
from fusekit.jaxprs import equations
from fusekit.layout import Layout
from fusekit.program import Program
from fusekit.stream import Stream
from tests.support import toys
from tests.support.compilations import compilations
from tests.support.meshes import CUBE
from tests.support.often import often
from tests.support.training import assert_close, distance, gradients, trained

WIDTH = 8
STACK = {"type": "transformer", "depth": 1, "width": WIDTH, "heads": 2, "mlp_ratio": 1}
SGD = {"optimizer": {"type": "sgd", "momentum": 0.9}, "learning_rate": 0.1, "steps": 10}


@register
class Soft(LossSpec):
    """Squared distance, each row weighted by the sigmoid of its prediction."""

    type: Literal["test_soft"] = "test_soft"
    prediction: Ref
    target: Ref

    def build(self, inputs, *, rngs):
        return SoftLoss()


class SoftLoss(nnx.Module):
    def __call__(self, streams, *, rows, context):
        prediction = streams["prediction"].values
        weight = jnp.where(rows, jax.nn.sigmoid(prediction), 0.0)
        return LossValue(weight * (prediction - streams["target"].values) ** 2, weight)


def sections(**changes):
    """Two optional sequences, a loss of each, and one over the tokens of the first."""
    modality = {"type": "features", "width": WIDTH, "optional": True}
    return {
        "modalities": {
            "a": {**modality, "length": 4},
            "b": {**modality, "length": 3},
            "label": {"type": "label", "classes": 3},
        },
        "encoders": {"a": STACK, "b": STACK},
        "heads": {
            "of_a": {"type": "classifier", "input": "a.mean", "classes": 3},
            "of_b": {"type": "classifier", "input": "b.mean", "classes": 3},
        },
        "losses": {
            "a": {"type": "cross_entropy", "prediction": "of_a", "target": "batch.label"},
            "b": {
                "type": "cross_entropy",
                "prediction": "of_b",
                "target": "batch.label",
                "weight": 0.3,
            },
            "tokens": {"type": "squared_error", "prediction": "a", "target": "batch.a"},
        },
        "train": SGD,
        **changes,
    }


def program(parts, given=None, mesh=None, **options):
    given = given or sections()
    made = fusekit.experiment(**given, mesh={"microbatches": parts, **(mesh or {})})
    return Program(fusekit.resolve(made), **options)


def batch(seed=0, size=16):
    """Rows of which microbatches have unequal shares: of 4, the first has no `a` and the second
    no `b` at all, and numbers of tokens differ from row to row."""
    r = np.random.default_rng(seed)
    found = {"label": Stream(r.integers(0, 3, size).astype("int32"))}
    for name, length, lacking in (("a", 4, 0), ("b", 3, 1)):
        mask = np.arange(length) < r.integers(1, length + 1, (size, 1))
        presence = (r.random(size) < 0.6) & (np.arange(size) % 4 != lacking)
        values = r.normal(size=(size, length, WIDTH)).astype("float32")
        values[~(mask & presence[:, None])] = np.nan
        found[name] = Stream(values, mask, presence)
    return found


BATCHES = [batch(0), batch(1)]


@pytest.fixture(scope="module")
def at_once():
    """Two steps with the whole batch."""
    return trained(program(1), BATCHES)


def assert_same(one, other, atol=1e-6):
    assert_close(one[0], other[0], atol=atol)
    for mine, theirs in zip(one[1], other[1], strict=True):
        assert_close(mine, theirs, atol=atol, rtol=1e-6)


@pytest.mark.parametrize("parts", [2, 4])
def test_the_state_after_two_steps_is_that_of_the_whole_batch(parts, at_once):
    assert_same(trained(program(parts), BATCHES), at_once)


def test_a_mean_of_the_means_of_parts_is_another_number(at_once):
    """The batch tells the two apart, so that the tests here can fail."""
    whole = program(1)
    parts = [jax.tree.map(lambda leaf, m=m: leaf[m::4], BATCHES[0]) for m in range(4)]
    each = [whole.step(whole.init(0), part)[1]["loss"] for part in parts]
    assert abs(np.mean(each) - at_once[1][0]["loss"]) > 0.05


@pytest.mark.parametrize("sizes", often([CUBE, {"fsdp": 8}], [CUBE]))
def test_on_a_mesh(sizes, at_once):
    found = trained(program(2, layout=Layout.of(sizes)), BATCHES)
    assert_same(found, at_once, atol=2e-6)
    assert distance(gradients(found[0]), gradients(at_once[0])) < 1e-5


@pytest.mark.slow
def test_with_scanned_layers():
    stack = {**STACK, "depth": 3}
    given = sections(encoders={"a": stack, "b": STACK})
    one, other = (trained(program(parts, given, layers="scan"), BATCHES[:1]) for parts in (1, 4))
    assert_same(other, one)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_of_replicas(mode, at_once):
    assert_close(trained(program(4, replicas=2, mode=mode), BATCHES)[0], at_once[0], atol=1e-6)


@pytest.mark.slow
def test_no_rows_are_moved_between_devices():
    """Of the batch nothing is gathered or exchanged: gradients and losses alone are summed."""
    made = program(2, layout=Layout.of({"data": 8}))
    text = made.compiled_step.lower(made.init(0), made.batch(BATCHES[0])).compile().as_text()
    assert "all-reduce" in text
    for word in ("all-gather", "all-to-all", "collective-permute", "dynamic-slice-start"):
        assert word not in text, word


def products(made):
    """How many products of matrices a step has, those in a loop counted once."""
    rows = made.batch(BATCHES[0])
    jaxpr = jax.make_jaxpr(made._step)(made.states.abstract, rows).jaxpr
    return sum(e.primitive.name == "dot_general" for e in equations(jaxpr))


def test_weights_are_summed_without_running_a_layer():
    assert products(program(4)) == products(program(1))


def test_frozen_parameters_stay():
    train = {**SGD, "trainable": ["a", "of_a"]}
    given = sections(train=train)
    one, other = (trained(program(parts, given), BATCHES) for parts in (1, 4))
    assert_same(other, one)
    start = program(1, given).init(0)
    names = [n for n in one[0] if n.startswith("params.b.")]
    flat = program(1, given).flat(start)
    assert names
    for name in names:
        np.testing.assert_array_equal(other[0][name], flat[name])


@pytest.mark.parametrize("turns", often(["sum", "alternate"], ["sum"]))
def test_tasks(turns):
    tasks = {
        "first": {"losses": ["a", "tokens"], "weight": 0.7},
        "second": {"losses": ["a", "b"], "weight": 2.0},
    }
    given = sections(train={**SGD, "tasks": tasks, "turns": turns})
    found = []
    for parts in (1, 4):
        made = program(parts, given)
        state = made.init(0)
        if turns == "sum":
            batches = dict(zip(tasks, BATCHES, strict=True))
            state, metrics = made.step(state, batches)
        else:
            state, metrics = made.step(state, BATCHES[0], task="first")
            state, metrics = made.step(state, BATCHES[1], task="second")
        flat = {name: np.array(value) for name, value in made.flat(state).items()}
        found.append((flat, [{name: np.array(value) for name, value in metrics.items()}]))
    assert_same(found[1], found[0])


@pytest.mark.slow
def test_computed_in_bfloat16():
    """To the rounding of what is computed; sums are in float32."""
    given = sections(train={**SGD, "compute": "bfloat16"})
    one, other = (trained(program(parts, given), BATCHES[:1]) for parts in (1, 4))
    assert distance(gradients(other[0]), gradients(one[0])) < 1e-2
    np.testing.assert_allclose(other[1][0]["loss"], one[1][0]["loss"], rtol=1e-3)
    assert {v.dtype for v in gradients(other[0]).values()} == {np.dtype("float32")}


def by_hand(v, y, there, kernel):
    """Losses and gradients of a linear prediction in float64: squared error, and the same with
    rows weighted by the sigmoid of the prediction."""
    prediction = v @ kernel
    gap = prediction - y
    plain = np.sum(gap**2 * there) / there.sum()
    of_plain = (2 * gap * there) @ v / there.sum()
    soft = there / (1 + np.exp(-prediction))
    slope = soft * (1 - soft)
    total, weight = np.sum(soft * gap**2), soft.sum()
    of_total = (slope * gap**2 + 2 * soft * gap) @ v
    return plain, total / weight, of_plain, (of_total - total / weight * slope @ v) / weight


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_linear_model_by_hand(parts):
    """Weights that depend on what is trained follow the quotient rule."""
    head = {"type": "toy_head", "input": "batch.v"}
    made = program(
        parts,
        {
            "modalities": {
                "v": {"type": "toy_vector", "optional": True},
                "y": {"type": "toy_number"},
            },
            "heads": {"h": head, "g": head},
            "losses": {
                "plain": {
                    "type": "toy_square",
                    "prediction": "h",
                    "target": "batch.y",
                    "weight": 0.25,
                },
                "soft": {"type": "test_soft", "prediction": "g", "target": "batch.y"},
            },
            "train": {**SGD, "learning_rate": 1.0},
        },
    )
    r = np.random.default_rng(0)
    v, y = r.normal(size=(8, 4)), r.normal(size=8)
    there = np.array([1, 1, 0, 1, 0, 1, 0, 0], float)
    state = made.init(0)
    flat = {name: np.array(value, "float64") for name, value in made.flat(state).items()}
    given = {"v": Stream(v.astype("float32"), presence=there > 0), "y": y.astype("float32")}
    state, metrics = made.step(state, given)
    plain, _, of_plain, _ = by_hand(v, y, there, flat["params.h.kernel"])
    _, soft, _, of_soft = by_hand(v, y, there, flat["params.g.kernel"])
    np.testing.assert_allclose(metrics["losses.plain"], plain, rtol=1e-5)
    np.testing.assert_allclose(metrics["losses.soft"], soft, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.25 * plain + soft, rtol=1e-5)
    found = gradients(made.flat(state))
    np.testing.assert_allclose(found["h.kernel"], 0.25 * of_plain, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["g.kernel"], of_soft, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["losses.plain.scale"], [0.25 * plain], rtol=1e-5)


def test_without_anything_present_nothing_moves():
    made = program(4)
    nothing = {
        name: Stream(s.values, s.mask, None if name == "label" else np.zeros(16, bool))
        for name, s in BATCHES[0].items()
    }
    before = {n: np.array(v) for n, v in made.flat(made.init(0)).items()}
    after, metrics = trained(made, [nothing])
    assert metrics[0]["loss"] == 0
    assert metrics[0]["gradient_norm"] == 0
    for name in before:
        if name.startswith("params."):
            np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.slow
def test_dropout_draws_anew_in_each_part():
    """Equal rows are dropped differently in different microbatches."""
    stack = {**STACK, "dropout": 0.5}
    given = sections(encoders={"a": stack, "b": stack})
    rows = jax.tree.map(lambda leaf: np.repeat(leaf[3:4], 4, 0), BATCHES[0])
    made = [program(parts, given) for parts in (1, 4)]
    losses = [float(p.step(p.init(0), rows)[1]["loss"]) for p in made]
    assert all(np.isfinite(losses))
    assert losses[0] != losses[1]


@pytest.mark.slow
def test_averages_of_parameters_come_out_as_with_the_whole_batch():
    given = sections(
        parts={"slow": {"of": ["a"], "weights": {"type": "ema", "decay": 0.9}}},
        losses={
            **sections()["losses"],
            "near": {"type": "squared_error", "prediction": "a.mean", "target": "slow.a.mean"},
        },
    )
    assert_same(*(trained(program(parts, given), BATCHES) for parts in (4, 1)))


def test_one_compilation_whatever_is_present():
    made = program(2)
    state = made.init(0)
    with compilations() as seen:
        for given in BATCHES:
            state, _ = made.step(state, given)
    assert len(seen) == 1


def test_what_couples_samples_is_refused_all_at_once():
    given = sections(
        modalities={
            **sections()["modalities"],
            "image": {"type": "image", "shape": [4, 4, 1]},
            "map": {"type": "image", "shape": [4, 4, 1]},
        },
        encoders={
            "a": STACK,
            "b": STACK,
            "image": {"type": "conv", "widths": [WIDTH]},
            "map": {"type": "conv", "widths": [WIDTH], "norm": "group", "groups": 2},
        },
        losses={
            **sections()["losses"],
            "c": {"type": "info_nce", "inputs": ["a.mean", "image.mean", "map.mean"]},
        },
    )
    program(1, given)
    with pytest.raises(ConfigError) as error:
        program(2, given)
    found = {problem.path: problem.message for problem in error.value.problems}
    assert set(found) == {("encoders", "image"), ("losses", "c")}
    assert "batch norm takes its statistics over the batch" in found["encoders", "image"]
    assert "negatives" in found["losses", "c"]


def test_statistics_of_the_batch_are_refused_even_where_nothing_says_that_it_couples():
    graph = fusekit.resolve(toys.two_stacks(depth=3, mesh={"microbatches": 2}))
    with pytest.raises(ConfigError) as error:
        Program(graph)
    (problem,) = error.value.problems
    assert problem.path == ("encoders", "v")
    assert "statistics depend on the batch" in problem.message


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(LayoutError, match="a batch of 16 does not divide into 3 microbatches"):
        trained(program(3), BATCHES[:1])
    with pytest.raises(LayoutError, match=r"into 4 microbatches, each over 8 parts.* of 32"):
        trained(program(4, layout=Layout.of({"data": 8})), BATCHES[:1])


def test_a_file_is_checked_with_positions(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(
        """version: 1
modalities:
  image: {type: image, shape: [4, 4, 1]}
  label: {type: label, classes: 3}
encoders:
  image: {type: conv, widths: [8]}
heads:
  y: {type: classifier, input: image.mean, classes: 3}
losses:
  y: {type: cross_entropy, prediction: y, target: batch.label}
train: {batch: 60}
mesh: {microbatches: 4, data: 2}
"""
    )
    with pytest.raises(ConfigError) as error:
        fusekit.load(file)
    lines = {p.path: p.position.line for p in error.value.problems if p.position}
    assert lines == {("train", "batch"): 11, ("encoders", "image"): 6}
    assert "a multiple of 8" in str(error.value)
    changes = ["train.batch=64", "encoders.image.norm=group"]
    assert fusekit.load(file, changes).mesh.microbatches == 4

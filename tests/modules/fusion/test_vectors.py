"""Fusions of vectors against float64 references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import vector
from fusekit_modules.fusion.attention_weighted import AttentionWeightedSpec
from fusekit_modules.fusion.bilinear import BilinearSpec
from fusekit_modules.fusion.expert_gate import ExpertGateSpec
from fusekit_modules.fusion.gated import GatedSpec
from fusekit_modules.fusion.sequential import SequentialSpec
from fusekit_modules.fusion.sum import SumSpec
from fusekit_modules.losses.squared_error import SquaredErrorSpec
from tests.modules.fusion.harness import Case, by_port, check
from tests.reference import vectors

WIDTHS = [3, 2, 4]


@pytest.mark.parametrize("absent", ["skip", "renormalise"])
@pytest.mark.parametrize("width", [None, 5])
def test_sum(absent, width):
    def reference(p, xs):
        scale_to = 3 if absent == "renormalise" else None
        return vectors.add(p, xs, project=width is not None, scale_to=scale_to)

    check(SumSpec(width=width, absent=absent), [4, 4, 4], reference)


def test_sum_without_projection_needs_one_width():
    with pytest.raises(WiringError, match="differ in embed"):
        SumSpec().infer({"a": vector(2), "b": vector(3)})


@pytest.mark.parametrize("gates", ["softmax", "sigmoid"])
@pytest.mark.parametrize("widths", [[3, 2], WIDTHS])
def test_gated(gates, widths):
    def reference(p, xs):
        return vectors.gated(p, widths, xs, tied=gates == "softmax")

    check(GatedSpec(gates=gates, width=3), widths, reference)


def test_attention_weighted():
    def reference(p, xs):
        return vectors.attention_weighted(p, WIDTHS, xs)

    check(AttentionWeightedSpec(), WIDTHS, reference, ports=("out", "weights"))


def test_default_width_is_the_least():
    inputs = {"a": vector(3), "b": vector(2)}
    assert GatedSpec().infer(inputs) == vector(2)


def test_expert_gate():
    def reference(p, xs):
        return vectors.expert_gate(p, 3, xs)

    check(ExpertGateSpec(width=3, hidden=4), WIDTHS, reference, ports=("out", "gate"))


@pytest.mark.parametrize("form", ["mlb", "mfb"])
def test_bilinear(form):
    def reference(p, xs):
        return vectors.bilinear(p, xs, form=form, rank=2, epsilon=1e-6)

    check(BilinearSpec(form=form, rank=2, width=3), WIDTHS, reference)


@pytest.mark.parametrize("hidden", [(), (4, 3)])
def test_sequential(hidden):
    def reference(p, xs):
        return vectors.sequential(p, 3, len(hidden), xs)

    spec = SequentialSpec(width=3, hidden=hidden, activation="tanh")
    check(spec, WIDTHS, reference, ports=("out", "steps", "before", "after"))


def test_the_penalty_on_changes_is_pooled_over_steps_and_samples():
    """A sample with three steps counts thrice as much as one with a single step."""
    inputs = {f"m{k}": vector(2, optional=True) for k in range(3)}
    spec = SequentialSpec(width=3)
    case = Case(spec, inputs)
    presence = np.array([[1, 1, 1], [0, 0, 1], [1, 0, 1], [0, 0, 0]], bool)
    arrays = {role: case.rng.normal(size=(4, 2)) * 3 for role in inputs}
    out, signatures = case.run(arrays, presence), by_port(spec.infer(inputs))
    states = [
        {0: case.parameters["start"]}
        | {k + 1: np.asarray(out["after"].values)[b, k] for k in range(3) if row[k]}
        for b, row in enumerate(presence)
    ]
    loss = SquaredErrorSpec(prediction="chain.after", target="chain.before")  # pyright: ignore
    given = {"prediction": signatures["after"], "target": signatures["before"]}
    loss.check(given)
    streams = {"prediction": out["after"], "target": out["before"]}
    with jax.enable_x64(True):
        module = loss.build(given, rngs=nnx.Rngs(0))
        value = module(streams, rows=jnp.asarray(presence.any(axis=1)), context=Context())
    got = np.sum(np.asarray(value.total)) / np.sum(np.asarray(value.weight))
    np.testing.assert_allclose(got, vectors.state_change(states), rtol=1e-12)


def test_sequential_steps_are_padding_where_skipped():
    inputs = {"a.mean": vector(2), "b": vector(2, optional=True)}
    case = Case(SequentialSpec(width=3), inputs)
    presence = np.array([[True, True], [True, False]])
    arrays = {role: case.rng.normal(size=(2, 2)) for role in inputs}
    out = case.run(arrays, presence)
    steps = out["steps"]
    np.testing.assert_array_equal(steps.mask, [[1, 1, 1], [1, 1, 0]])
    assert [span.label for span in steps.spans] == ["start", "a", "b"]
    np.testing.assert_array_equal(steps.span("a").values[1, 0], out["out"].values[1])


def test_sequential_depends_on_the_order():
    case = Case(SequentialSpec(width=3), {"a": vector(2), "b": vector(2)})
    arrays = {role: case.rng.normal(size=(2, 2)) for role in "ab"}
    swapped = {"a": arrays["b"], "b": arrays["a"]}
    one, other = case.run(arrays, None), case.run(swapped, None)
    assert not np.allclose(one["out"].values, other["out"].values)

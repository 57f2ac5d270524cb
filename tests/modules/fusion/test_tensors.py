"""Tensor, low-rank tensor and multiplicative fusion against float64 references."""

import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream, vector
from fusekit_modules.fusion.low_rank_tensor import LowRankTensorSpec
from fusekit_modules.fusion.multiplicative import MultiplicativeSpec
from fusekit_modules.fusion.tensor import TensorSpec
from tests.modules.fusion.harness import Case, check
from tests.reference import tensors


@pytest.mark.parametrize("widths", [[3, 2], [2, 3, 1]])
def test_tensor_is_the_outer_product(widths):
    check(TensorSpec(), widths, lambda p, xs: tensors.tensor(widths, xs))


def test_tensor_by_hand():
    case = Case(TensorSpec(), {"a": vector(1), "b": vector(2)})
    out = case.run({"a": np.array([[2.0]]), "b": np.array([[3.0, 5.0]])}, None)
    np.testing.assert_array_equal(out["out"].values, [[1, 3, 5, 2, 6, 10]])


def test_tensor_too_wide_names_the_way_out():
    with pytest.raises(WiringError) as error:
        TensorSpec().infer({"a": vector(2000), "b": vector(2000)})
    assert error.value.problem.expected == "low_rank_tensor"


@pytest.mark.parametrize("widths", [[3, 2], [2, 3, 1]])
def test_low_rank_tensor_is_the_full_tensor_product(widths):
    spec = LowRankTensorSpec(width=3, rank=2)
    check(spec, widths, lambda p, xs: tensors.low_rank_tensor(widths, p, xs))


def test_low_rank_break_even():
    inputs = {"a": vector(9), "b": vector(4)}
    assert LowRankTensorSpec().break_even(inputs) == 3  # 3 * 15 < 50 <= 4 * 15


@pytest.mark.parametrize(
    ("form", "widths"),
    [("matrix", [3, 2]), ("vector", [3, 2]), ("scalar", [3, 2]), ("matrix", [2, 3, 2])],
)
def test_multiplicative(form, widths):
    spec = MultiplicativeSpec(form=form, width=4 if form == "matrix" else None)
    check(spec, widths, lambda p, xs: tensors.multiplicative(widths, p, xs))


def test_multiplicative_matrix3d():
    spec = MultiplicativeSpec(form="matrix3d", width=3, tokens=2)
    widths = [3, 2]
    check(spec, widths, lambda p, xs: tensors.multiplicative(widths, p, xs).reshape(2, 3))


@pytest.mark.parametrize("inputs", [2, 3])
def test_multiplicative_starts_at_the_scale_of_its_inputs(inputs):
    """Whatever the widths: each term has variance one, and three inputs make six terms."""
    signatures = {f"m{k}": vector(64) for k in range(inputs)}
    module = MultiplicativeSpec(width=64).build(signatures, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    streams = {k: Stream(rng.normal(size=(64, 64)).astype("float32")) for k in signatures}
    out = module(streams, context=Context()).values
    np.testing.assert_allclose(np.std(out), (3 * (inputs - 1)) ** 0.5, rtol=0.15)


def test_multiplicative_refuses():
    three = {role: vector(2) for role in "abc"}
    with pytest.raises(WiringError, match="matrix"):
        MultiplicativeSpec(form="vector").infer(three)
    with pytest.raises(WiringError, match="keeps"):
        MultiplicativeSpec(form="scalar", width=3).infer({"a": vector(2), "b": vector(2)})

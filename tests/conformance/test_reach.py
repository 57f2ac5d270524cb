"""Reach is more than rounding: what a softmax never sees is dead, though its gradient is not 0."""

from typing import Any, Literal

import jax
import numpy as np
import pytest
from flax import nnx

from fusekit.component import EncoderSpec
from fusekit.conformance.cases import KINDS, Case, random_stream, varied
from fusekit.conformance.checks import check_reachable
from fusekit.conformance.laws import BrokenError, dead
from fusekit.conformance.trial import Trial
from fusekit.parameter import parameter
from fusekit.stream import Stream


class Softmax(EncoderSpec):
    """softmax(x + b): a bias for each channel, or one for all, which changes nothing."""

    type: Literal["probe"] = "probe"
    size: int = 1

    def infer(self, inputs: Any) -> Any:
        return inputs["input"]

    def build(self, inputs: Any, *, rngs: nnx.Rngs) -> nnx.Module:
        return Shifted(self.size, rngs)


class Shifted(nnx.Module):
    def __init__(self, size: int, rngs: nnx.Rngs):
        ones = nnx.initializers.ones
        self.scale = parameter(rngs, ones, (8,), ("embed",))
        self.bias = parameter(rngs, ones, (size,), (None,))

    def __call__(self, streams: Any, *, context: Any) -> Stream:
        stream = streams["input"].clean()
        values = jax.nn.softmax(stream.values * self.scale[...] + self.bias[...])
        return stream.with_(values=values).clean()


def trial(size: int) -> Trial:
    spec = Softmax.model_validate({"size": size, "input": "some"})
    return Trial(Case(spec, {"input": dict(varied(KINDS["vector"]))["missing"]}, "softmax"))


def test_a_shift_of_all_scores_is_dead():
    with pytest.raises(BrokenError, match="no gradient reaches bias"):
        check_reachable(trial(1))
    check_reachable(trial(8))


def test_dead_is_small_beside_the_largest():
    grads = {"a": np.ones(3), "b": np.full(3, 1e-9), "c": np.full(2, 1e-7), "d": np.zeros(1)}
    assert dead(grads, 1e-8) == {"b", "d"}


def test_a_sample_may_be_there_and_all_padding():
    signature = dict(varied(KINDS["sequence"]))["missing"]
    stream = random_stream(signature, np.random.default_rng(0), garbage=np.nan, present=0.6)
    assert np.asarray(stream.presence)[1]
    assert not np.asarray(stream.mask)[1].any()
    assert np.isnan(stream.values[1]).all()

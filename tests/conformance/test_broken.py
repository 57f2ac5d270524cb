"""Components that break one law each: the suite must find them."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.component import EncoderSpec, LossSpec, LossValue, MetricSpec, OperatorSpec
from fusekit.config.reference import Ref
from fusekit.conformance.cases import KINDS, Case, varied
from fusekit.conformance.operators import check_operator
from fusekit.conformance.run import failures
from fusekit.layered import Operator
from fusekit.stream import Signature, Stream, vector


def missing(kind: str) -> Signature:
    return dict(varied(KINDS[kind]))["missing"]


class Broken(EncoderSpec):
    """A mean of a sequence, right but for the fault that it is told."""

    type: Literal["probe"] = "probe"
    fault: str = ""

    def infer(self, inputs: Any) -> Any:
        return vector(inputs["input"].width, optional=True)

    def build(self, inputs: Any, *, rngs: nnx.Rngs) -> nnx.Module:
        return Mean(self.fault)


class Mean(nnx.Module):
    def __init__(self, fault: str):
        self.fault = fault
        if fault == "axes":
            self.scale = nnx.Param(jnp.ones(8))
        if fault == "all_absent":
            self.scale = nnx.Param(jnp.ones(8), axes=("embed",))

    def __call__(self, streams: Any, *, context: Any) -> Stream:
        given = streams["input"]
        clean = given if self.fault == "contents" else given.clean()
        length = clean.length if self.fault == "padding" else clean.mask.sum(1, keepdims=True)
        values = clean.values.sum(1) / jnp.maximum(length, 1)
        if self.fault == "randomness" and context.training:
            values *= jax.random.bernoulli(jax.random.key(0), 0.5, values.shape)
        if self.fault == "independence":
            values -= values.mean(0)
        presence = given.presence
        if self.fault in ("axes", "all_absent"):
            values = values + self.scale[...]
        if self.fault == "all_absent":
            presence = jnp.ones_like(presence)
        if self.fault == "infer":
            values = values[:, 1:]
        return Stream(values, presence=presence)


FAULTS = ("axes", "all_absent", "contents", "independence", "infer", "padding", "randomness")


@pytest.mark.parametrize("fault", ["", *FAULTS])
def test_a_fault_of_an_encoder_is_found(fault):
    spec = Broken.model_validate({"fault": fault, "input": "some"})
    found = {law for law, _ in failures(Case(spec, {"input": missing("sequence")}, "mean"))}
    assert fault in found if fault else not found


class Squares(LossSpec):
    """The sum of squares."""

    type: Literal["probe"] = "probe"
    input: Ref
    careful: bool = True

    def build(self, inputs: Any, *, rngs: nnx.Rngs) -> nnx.Module:
        return Squared(self.careful)


class Squared(nnx.Module):
    def __init__(self, careful: bool):
        self.careful = careful

    def __call__(self, streams: Any, *, rows: Any, context: Any) -> LossValue:
        squares = (streams["input"].clean().values ** 2).sum(-1)
        counts = rows if self.careful else jnp.ones_like(rows)
        return LossValue(jnp.where(counts, squares, 0.0), counts.astype("float32"))


@pytest.mark.parametrize("careful", [True, False])
def test_a_loss_of_rows_that_do_not_count_is_found(careful):
    spec = Squares.model_validate({"careful": careful, "input": "some"})
    found = [law for law, _ in failures(Case(spec, {"input": missing("vector")}, "squares"))]
    assert found == ([] if careful else ["rows"])


class Share(MetricSpec):
    """The share of targets that are class 0, among the rows that count or among all."""

    type: Literal["probe"] = "probe"
    target: Ref
    careful: bool = True

    def compute(self, columns: Any, rows: Any) -> float:
        target = columns["target"][rows] if self.careful else columns["target"]
        return float(np.mean(target == 0)) if len(target) else float("nan")


@pytest.mark.parametrize("careful", [True, False])
def test_a_metric_of_rows_that_do_not_count_is_found(careful):
    spec = Share.model_validate({"careful": careful, "target": "some"})
    found = [law for law, _ in failures(Case(spec, {"target": missing("class")}, "share"))]
    assert found == ([] if careful else ["rows", "nothing"])


class Reporter(OperatorSpec):
    """Edits nothing; its port is the mean of the stream."""

    type: Literal["probe"] = "probe"
    uniform = True
    reads_inputs = False
    port_names = ("mean",)

    def infer_ports(self, streams: Any, reads: Any) -> Any:
        return {"mean": Signature((), optional=True)}

    def build_operator(self, streams: Any, reads: Any, *, rngs: nnx.Rngs) -> Operator:
        return Reports()


class Wrong(Reporter):
    """Says that its port is a vector."""

    def infer_ports(self, streams: Any, reads: Any) -> Any:
        return {"mean": vector(8, optional=True)}


class Reports(Operator):
    def begin(self, streams: Any, reads: Any, *, context: Any) -> Any:
        clean = streams[0].clean()
        return {"mean": Stream(clean.values.mean((1, 2)), presence=clean.presence)}

    def ports(self, state: Any) -> Any:
        return state


@pytest.mark.parametrize(("component", "expected"), [(Reporter, set()), (Wrong, {"infer"})])
def test_ports_are_as_an_operator_says(component, expected):
    assert {law for law, _ in check_operator(component)} == expected

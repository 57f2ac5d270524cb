"""Projectors against float64 NumPy."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence, vector
from fusekit_modules.fusion.projector import ProjectorSpec
from tests.modules.fusion.harness import check
from tests.reference.transformer import mlp


def rows(xs, lengths, width, of):
    """Every input's tokens in its place, zeros for those that are not there."""
    out, at = np.zeros((sum(lengths), width)), 0
    for k, length in enumerate(lengths):
        if k in xs:
            out[at : at + len(xs[k])] = of(xs[k])
        at += length
    return out


def test_mlp_of_two_inputs():
    spec = ProjectorSpec(inputs=["m0", "m1"], width=5, hidden=3)  # pyright: ignore
    streams = [sequence(3, 4, label="m0", padded=True), sequence(2, 4, label="m1")]
    case = check(spec, streams, lambda p, xs: rows(xs, [3, 2], 5, lambda x: mlp(p, "proj", x)))
    labels = [(span.label, span.size) for span in spec.infer(case.inputs).spans]
    assert labels == [("m0", 3), ("m1", 2)]


def test_linear():
    spec = ProjectorSpec(inputs=["m0"], form="linear")  # pyright: ignore

    def reference(p, xs):
        return rows(xs, [3], 4, lambda x: x @ p["proj.kernel"] + p["proj.bias"])

    check(spec, [sequence(3, 4, label="m0", padded=True)], reference)


def test_refuses():
    with pytest.raises(WiringError, match="number of inputs"):
        ProjectorSpec().infer({})
    with pytest.raises(WiringError, match="differ in embed"):
        ProjectorSpec().infer({"a": sequence(2, 4), "b": sequence(2, 3)})
    with pytest.raises(WiringError, match="sequence is due"):
        ProjectorSpec().infer({"a": vector(4)})

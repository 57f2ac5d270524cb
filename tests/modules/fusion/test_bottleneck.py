"""The bottleneck recurrence against a float64 reference."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence, vector
from fusekit_modules.fusion.bottleneck import BottleneckSpec
from tests.modules.fusion.harness import Case, check
from tests.modules.fusion.lockstep import Lockstep
from tests.reference import operators


def test_recurrence():
    lengths, places = [3, 2], (1, 2)
    spec = Lockstep(BottleneckSpec(tokens=2), depth=3, places=places)

    def reference(p, xs):
        return operators.bottleneck(p, lengths, 3, places, xs)

    streams = [sequence(3, 4, label="m0", padded=True), sequence(2, 4, label="m1")]
    check(spec, streams, reference, ports=("m0", "m1"))


def test_order_of_stacks_does_not_matter():
    inputs = {name: sequence(2, 4, label=name) for name in ("m0", "m1")}
    case = Case(Lockstep(BottleneckSpec(tokens=2), depth=2, places=(0, 1)), inputs)
    arrays = {name: case.rng.normal(size=(2, 2, 4)) for name in inputs}
    one = case.run(arrays, None)
    swapped = Case(case.spec, inputs)
    turned = {"stacks.0": "stacks.1", "stacks.1": "stacks.0"}
    swapped.parameters = {
        turned.get(path[:8], path[:8]) + path[8:]: leaf for path, leaf in case.parameters.items()
    }
    other = swapped.run({"m0": arrays["m1"], "m1": arrays["m0"]}, None)
    np.testing.assert_allclose(one["m0"].values, other["m1"].values, rtol=1e-12)


def test_refuses():
    with pytest.raises(WiringError, match="number of inputs"):
        BottleneckSpec().infer_edit((sequence(2, 4),), {})
    with pytest.raises(WiringError, match="differ in embed"):
        BottleneckSpec().infer_edit((sequence(2, 4), sequence(2, 6)), {})
    with pytest.raises(WiringError, match="sequence is due"):
        BottleneckSpec().infer_edit((sequence(2, 4), vector(4)), {})
    with pytest.raises(WiringError, match="in place"):
        BottleneckSpec().infer({})

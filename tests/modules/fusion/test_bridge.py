"""Bridges against a float64 reference."""

import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence
from fusekit_modules.fusion.bridge import BridgeSpec
from tests.modules.fusion.harness import check
from tests.modules.fusion.lockstep import Lockstep
from tests.reference import operators


def test_bridges():
    operator = BridgeSpec(inputs=["m1"])  # pyright: ignore
    spec = Lockstep(operator, depth=3, places=(0, 2), reads=1)

    def reference(p, xs):
        return operators.bridge(p, 3, 3, (0, 2), xs)

    streams = [sequence(3, 4, label="m0"), sequence(3, 6, label="m1")]
    check(spec, streams, reference, ports=("m0",))


def test_refuses():
    with pytest.raises(WiringError, match="number of inputs"):
        BridgeSpec().infer_edit((sequence(2, 4),), {})
    with pytest.raises(WiringError, match="differ in length"):
        BridgeSpec().infer_edit((sequence(2, 4),), {"y": sequence(3, 4)})

"""`memory`, in one softmax with the stack's own tokens and, gated, in one of its own."""

import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence
from fusekit_modules.fusion.memory import MemorySpec
from tests.modules.fusion.inside import hold
from tests.reference import inside


@pytest.mark.parametrize("gate", ["tanh", "none"])
def test_against_numpy(gate):
    def form(p, own, x, xs):
        return inside.memory(p, own, x, [xs[k] for k in (1, 2) if k in xs])

    streams = [sequence(3, 4, label="a"), sequence(2, 3, padded=True), sequence(1, 3)]
    hold(MemorySpec(gate=gate), streams, inside.edited(form, [3], 4), reads=2)


def test_refuses():
    reads = {"y": sequence(2, 4), "z": sequence(2, 3)}
    with pytest.raises(WiringError, match="differ in embed"):
        MemorySpec().infer_edit((sequence(3, 4),), reads)
    with pytest.raises(WiringError, match="number of inputs"):
        MemorySpec().infer_edit((sequence(3, 4),), {})

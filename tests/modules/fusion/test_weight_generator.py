"""`weight_generator` against kernels that are changed sample by sample."""

import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence, vector
from fusekit_modules.fusion.weight_generator import WeightGeneratorSpec
from tests.modules.fusion.inside import entering, hold
from tests.reference import inside

SMALL = {"rank": 2, "width": 4, "heads": 2, "depth": 1}


def test_against_numpy():
    names = ("attention.query", "mlp.down")

    def form(p, own, x, xs):
        how = {"rank": 2, "scale": 3 / 2, "depth": 1}
        return inside.generated(p, own, x, xs.get(1), names, **how)

    targets = ("attention.query", "feed_forward.down")
    spec = WeightGeneratorSpec(**SMALL, alpha=3, targets=targets)
    streams = [sequence(3, 4, label="a"), sequence(2, 3, label="y", padded=True)]
    hold(spec, streams, inside.edited(form, [3], 4), reads=1)


def test_refuses():
    stream, read = entering(sequence(3, 4)), {"y": sequence(2, 3)}
    with pytest.raises(WiringError, match="number of inputs"):
        WeightGeneratorSpec(**SMALL).infer_edit((stream,), {})
    with pytest.raises(WiringError, match="sequence is due"):
        WeightGeneratorSpec(**SMALL).infer_edit((stream,), {"y": vector(3)})
    with pytest.raises(WiringError, match="no such projection"):
        WeightGeneratorSpec(**SMALL, targets=("mlp",)).infer_edit((stream,), read)
    with pytest.raises(WiringError, match="heads do not divide"):
        WeightGeneratorSpec(width=4, heads=3).infer_edit((stream,), read)

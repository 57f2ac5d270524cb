"""`modulation` by vectors, numbers and tokens, against norms that are changed by hand."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Signature, sequence, vector
from fusekit_modules.fusion import modulation
from fusekit_modules.fusion.modulation import ModulationSpec
from tests.modules.fusion.inside import hold
from tests.reference import inside
from tests.reference.transformer import block, sines


def modulated(p, own, x, deltas):
    """`deltas` by norm: scale and bias, of all tokens or of each."""
    found = dict(p)
    for name, (scale, bias) in deltas.items():
        found[f"{own}{name}_norm.scale"] = p[f"{own}{name}_norm.scale"] + scale
        found[f"{own}{name}_norm.bias"] = p[f"{own}{name}_norm.bias"] + bias
    return block(found, own, x)


def test_by_a_vector_and_a_number(monkeypatch):
    """Slow sines, or a small step of the number would be none of their phase."""
    assert modulation.PER_UNIT == 1000
    monkeypatch.setattr(modulation, "PER_UNIT", 3.0)

    def form(p, own, x, xs):
        total = np.zeros(16)
        for number in (0, 1):
            y = xs.get(number + 1)
            if y is None:
                continue
            y = sines(3 * np.reshape(y, 1), 6)[0] if number else y
            name = f"layers.0.maps.0.{number}"
            hidden = y @ p[f"{name}.first.kernel"] + p[f"{name}.first.bias"]
            total = total + inside.silu(hidden) @ p[f"{name}.last"]
        parts = np.split(total, 4)
        return modulated(p, own, x, {"mlp": parts[:2], "attention": parts[2:]})

    spec = ModulationSpec(sublayers=("feed_forward", "attention"), hidden=3, frequencies=6)
    streams = [sequence(3, 4, label="a", padded=True), vector(2), Signature(())]
    hold(spec, streams, inside.edited(form, [3], 4), reads=2)


def test_by_tokens_and_a_vector():
    def form(p, own, x, xs):
        total = np.zeros((len(x), 8))
        if 1 in xs:
            each = xs[1] @ p["layers.0.maps.0.0.last"]
            total[: len(each)] += each[: len(x)]
        if 2 in xs:
            total += xs[2] @ p["layers.0.maps.0.1.last"]
        return modulated(p, own, x, {"mlp": np.split(total, 2, axis=1)})

    spec = ModulationSpec(sublayers=("feed_forward",), activation="identity")
    streams = [sequence(3, 4, label="a"), sequence(3, 2, padded=True), vector(2)]
    hold(spec, streams, inside.edited(form, [3], 4), reads=2)


def test_refuses():
    with pytest.raises(WiringError, match="as many tokens"):
        ModulationSpec().infer_edit((sequence(3, 4),), {"y": sequence(2, 4)})
    grid = Signature((("height", 2), ("width", 2), ("channel", 3)))
    with pytest.raises(WiringError, match="vector is due"):
        ModulationSpec().infer_edit((sequence(3, 4),), {"y": grid})
    with pytest.raises(WiringError, match="number of inputs"):
        ModulationSpec().infer_edit((sequence(3, 4),), {})

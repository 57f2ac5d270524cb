"""Space to depth against float64 NumPy."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Span, sequence
from fusekit_modules.fusion.pixel_shuffle import PixelShuffleSpec
from tests.modules.fusion.harness import check
from tests.reference.transformer import mlp


def windows(x, grid, size):
    """Window by window, the tokens of each in row-major order side by side; what is not there is
    zeros. `None` for a window of nothing."""
    rows, columns = grid
    full = np.zeros((rows * columns, x.shape[1]))
    full[: len(x)] = x
    for i in range(0, rows, size[0]):
        for j in range(0, columns, size[1]):
            inside = [(i + a) * columns + j + b for a in range(size[0]) for b in range(size[1])]
            there = any(index < len(x) for index in inside)
            yield np.concatenate([full[index] for index in inside]) if there else None


def projected(x, grid, size, width, of):
    each = windows(x, grid, size)
    return np.stack([np.zeros(width) if w is None else of(w) for w in each])


def test_affine_and_padding():
    spec = PixelShuffleSpec(inputs=["m0"], window=(2, 2), width=3)  # pyright: ignore
    grid = (("height", 4), ("width", 2))
    given = sequence(8, 2, label="m0", padded=True, grid=grid)

    def reference(p, xs):
        of = lambda w: w @ p["proj.kernel"] + p["proj.bias"]  # noqa: E731
        return projected(xs[0], (4, 2), (2, 2), 3, of)

    case = check(spec, [given], reference)
    assert spec.infer(case.inputs).grid == (("height", 2), ("width", 1))


def test_mlp_after_a_readout_token():
    spans = (Span("m0", 1, readout=True), Span("m0", 6))
    fields = {"window": (1, 3), "hidden": 5, "source": (2, 3)}
    spec = PixelShuffleSpec(inputs=["m0"], **fields)  # pyright: ignore

    def reference(p, xs):
        return projected(xs[0][1:], (2, 3), (1, 3), 2, lambda w: mlp(p, "proj", w))

    case = check(spec, [sequence(7, 2, spans=spans)], reference)
    assert spec.infer(case.inputs).spans == (Span("m0", 2),)


def test_refuses():
    given = sequence(6, 2, label="a", grid=(("height", 2), ("width", 3)))
    with pytest.raises(WiringError, match="do not divide the grid"):
        PixelShuffleSpec().infer({"a": given})
    with pytest.raises(WiringError, match="no grid that is known"):
        PixelShuffleSpec().infer({"a": given.with_(grid=())})
    mixed = (Span("a", 3), Span("a", 1, readout=True), Span("a", 2))
    with pytest.raises(WiringError, match="readout tokens stand between"):
        PixelShuffleSpec().infer({"a": given.with_(spans=mixed)})

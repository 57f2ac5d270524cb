"""Fusions of what lies side by side: SSMA and the pyramid, one sample at a time, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, sequence, vector
from fusekit_modules.fusion.pyramid import PyramidSpec
from fusekit_modules.fusion.ssma import SsmaSpec
from tests.modules.fusion.harness import Case, check
from tests.reference.transformer import attention, norm
from tests.reference.vectors import affine, softmax

LENGTH = 4


def conv(p, name, x, rate=1):
    """Place by place; zeros lie outside."""
    kernel, reach = p[f"{name}.kernel"], rate * (p[f"{name}.kernel"].shape[0] // 2)
    grid = x.shape[:-1]
    around = np.pad(x, [(reach, reach)] * len(grid) + [(0, 0)])
    out = np.zeros((*grid, kernel.shape[-1]))
    for place in np.ndindex(*grid):
        window = tuple(slice(i, i + 2 * reach + 1, rate) for i in place)
        out[place] = np.tensordot(around[window], kernel, axes=kernel.ndim - 1)
    return out + p.get(f"{name}.bias", 0)


def laid_out(widths, xs):
    """All tokens of the longest present input; zeros for what the others lack."""
    longest = max(len(x) for x in xs.values())
    each = [
        np.zeros((longest, *x.shape[1:-1], w)) for w in widths for x in [next(iter(xs.values()))]
    ]
    for k, x in xs.items():
        each[k][: len(x)] = x
    return each


def recalibrated(p, x):
    gate = 1 / (1 + np.exp(-conv(p, "up", np.maximum(conv(p, "down", x), 0))))
    return conv(p, "out", x * gate)


def filled(x, shape):
    out = np.zeros((*shape, x.shape[-1]))
    out[: len(x)] = x
    return out


def test_ssma_over_sequences():
    widths = [3, 2]

    def reference(p, xs):
        x = np.concatenate(laid_out(widths, xs), axis=-1)
        return filled(recalibrated(p, x), (LENGTH,))

    streams = [sequence(LENGTH, w, label="m0", padded=True) for w in widths]
    check(SsmaSpec(squeeze=2, norm="none", width=3), streams, reference)


def test_ssma_over_maps():
    def of(channels):
        return Signature((("height", 3), ("width", 4), ("channel", channels)))

    def reference(p, xs):
        each = [xs.get(0, np.zeros((3, 4, 2))), xs.get(1, np.zeros((3, 4, 3)))]
        return recalibrated(p, np.concatenate(each, axis=-1))

    check(SsmaSpec(squeeze=4, norm="none"), [of(2), of(3)], reference)


def test_batch_norm_leaves_out_absent_rows():
    inputs = {"a": sequence(3, 2, optional=True), "b": sequence(3, 2, optional=True)}
    case = Case(SsmaSpec(squeeze=2), inputs)
    arrays = {k: np.float32(case.rng.normal(size=(3, 3, 2))) for k in inputs}
    presence = np.array([[True, True], [False, False], [True, False]])
    parameters = {k: jnp.asarray(v, jnp.float32) for k, v in case.parameters.items()}
    module = case.merged(parameters)
    module(case.streams(arrays, presence), context=Context("train"))
    plain = {k: v for k, v in case.parameters.items() if not k.startswith("norm")}
    each = [
        np.concatenate([arrays["a"][b], arrays["b"][b] * present[1]], axis=-1)
        for b, present in enumerate(presence)
        if present.any()
    ]
    outs = np.concatenate([recalibrated(plain, x) for x in each])
    np.testing.assert_allclose(module.norm.mean[...], 0.1 * outs.mean(axis=0), rtol=1e-5, atol=1e-6)


def pyramid(p, widths, levels, window, xs):
    longest = max(len(x) for x in xs.values())
    x = {k: affine(p, f"project.{k}", v) for k, v in xs.items()}
    found = {k: [] for k in xs}
    for level in range(levels):
        new = {}
        for k in x:
            name = f"levels.{level}.{k}"
            normal = {j: norm(p, f"{name}.norm", y) for j, y in x.items()}
            read = []
            for t in range(len(x[k])):
                reach = window * 2**level
                near = [y[max(t - reach, 0) : t + reach + 1] for y in normal.values()]
                query = normal[k][t : t + 1]
                read.append(attention(p, f"{name}.attention", query, np.concatenate(near))[0])
            y = x[k] + np.stack(read)
            new[k] = y + np.maximum(conv(p, f"{name}.conv", y, rate=2**level), 0)
        x = new
        for k in x:
            found[k].append(x[k])
    out = np.zeros((LENGTH, p["gate.kernel"].shape[1]))
    for t in range(longest):
        chosen = {}
        for k, scales in found.items():
            if t < len(scales[0]):
                here = np.stack([scale[t] for scale in scales])
                hidden = np.tanh(affine(p, "choose.up", here))
                scores = softmax(dict(enumerate((hidden @ p["choose.down.kernel"])[:, 0])))
                chosen[k] = sum(scores[i] * here[i] for i in range(levels))
        gates = softmax({k: c @ p["gate.kernel"] for k, c in chosen.items()})
        out[t] = sum(gates[k] * c for k, c in chosen.items())
    return out


@pytest.mark.parametrize(("levels", "window"), [(2, 1)])
def test_pyramid(levels, window):
    widths = [3, 2]

    def reference(p, xs):
        return pyramid(p, widths, levels, window, xs)

    streams = [sequence(LENGTH, w, label="m0", padded=True) for w in widths]
    check(PyramidSpec(levels=levels, window=window, width=4, heads=2), streams, reference)


def test_refuses():
    with pytest.raises(WiringError, match="differ in size"):
        SsmaSpec().infer({"a": sequence(3, 2), "b": sequence(4, 2)})
    with pytest.raises(WiringError, match="is due"):
        PyramidSpec().infer({"a": sequence(3, 2), "b": vector(2)})
    with pytest.raises(WiringError, match="heads divide"):
        PyramidSpec(heads=4).infer({"a": sequence(3, 6), "b": sequence(3, 6)})
    video = Signature((("time", 2), ("height", 3), ("width", 4), ("channel", 2)))
    with pytest.raises(WiringError, match="no feature map"):
        SsmaSpec().infer({"a": video, "b": video})

"""Perceptrons, recurrent and convolutional encoders against NumPy, and what they refuse."""

import numpy as np
import pytest
from scipy.special import erf

from fusekit.errors import FusekitError, WiringError
from fusekit.layered import Edit, Edits
from fusekit.stream import Signature, Span, Stream, sequence, vector
from fusekit_modules.encoders.conv import ConvSpec
from fusekit_modules.encoders.conv1d import Conv1dSpec
from fusekit_modules.encoders.embed import EmbedSpec
from fusekit_modules.encoders.mlp import MlpSpec
from fusekit_modules.encoders.projection import ProjectionSpec
from fusekit_modules.encoders.recurrent import RecurrentSpec
from fusekit_modules.encoders.resnet import ResnetSpec
from tests.modules.encoders.harness import Case
from tests.modules.layers.harness import STILL, TIGHT, float64


@pytest.mark.parametrize("given", [vector(3), sequence(2, 3)])
def test_perceptron(given):
    case = Case(MlpSpec(width=2, hidden=5, depth=3), given)
    values, p = case.values(), case.p
    x = values
    for layer in range(3):
        x = np.maximum(x, 0) if layer else x
        x = x @ p[f"layers.{layer}.kernel"] + p[f"layers.{layer}.bias"]
    np.testing.assert_allclose(case(values).values, x, **TIGHT)


def test_perceptron_of_a_table():
    given = Signature((("field", 2),), cardinalities=(0, 2), padded=True)
    case = Case(MlpSpec(width=2, depth=1), given)
    values, mask = np.array([[0.5, 1], [2.0, 0]]), np.array([[True, True], [False, True]])
    x = np.array([[0.5, 0, 1, 1, 1], [0, 1, 0, 0, 1]])
    want = x @ case.p["layers.0.kernel"] + case.p["layers.0.bias"]
    out = case(values, mask)
    np.testing.assert_allclose(out.values, want, **TIGHT)
    assert out.mask is None


def test_projection_without_a_constant_keeps_zero():
    case = Case(ProjectionSpec(width=4, bias=False), vector(3))
    np.testing.assert_allclose(case(case.values()).values, case.values() @ case.p["proj.kernel"])


def test_a_class_becomes_a_vector():
    case = Case(EmbedSpec(width=4), Signature((), dtype="int", classes=3))
    np.testing.assert_allclose(case([2, 0, 2]).values, case.p["embed.table"][[2, 0, 2]])


def test_both_directions_of_two_recurrent_layers():
    case = Case(RecurrentSpec(width=4, depth=2, direction="both"), sequence(3, 2, padded=True))
    values, mask = case.values(2), np.array([[1, 1, 0], [1, 1, 1]], bool)
    p = case.p

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def run(name, x):
        h, out = np.zeros(2), []
        for row in x:
            drive = np.split(row @ p[f"{name}.enter.kernel"] + p[f"{name}.enter.bias"], 3)
            again = np.split(h @ p[f"{name}.again.kernel"] + p[f"{name}.again.bias"], 3)
            r, z = sigmoid(drive[0] + again[0]), sigmoid(drive[1] + again[1])
            h = (1 - z) * np.tanh(drive[2] + r * again[2]) + z * h
            out.append(h)
        return np.stack(out)

    out = case(values, mask)
    for i in range(2):
        x = values[i][mask[i]]
        for layer in range(2):
            name = f"layers.{layer}"
            back = run(f"{name}.backward", x[::-1])[::-1]
            x = np.concatenate([run(f"{name}.forward", x), back], axis=1)
        np.testing.assert_allclose(out.values[i, : len(x)], x, **TIGHT)


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_the_final_states_of_both_directions(direction):
    given = sequence(4, 2, label="f", padded=True)
    case = Case(RecurrentSpec(width=4, direction=direction, readout=1), given)
    values, mask = case.values(3), np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], bool)
    out = np.asarray(case(values, mask).values)
    states, half = out[:, 1:], 2 if direction == "both" else 4
    for row, last in ((0, 3), (1, 1)):
        want = np.concatenate([states[row, last, :half], states[row, 0, half:]])
        np.testing.assert_array_equal(out[row, 0], want)
    np.testing.assert_array_equal(out[2, 0], np.zeros(4))
    spec = case.spec
    assert spec.infer({"input": given}).spans == (Span("f", 1, readout=True), Span("f", 4))


def plain_layer(p, name, x, *, stride, pool, groups):
    """One layer over a map `[h, w, c]`, place by place."""
    kernel = p[f"{name}.conv.kernel"]
    size, around = kernel.shape[0], np.pad(x, [(kernel.shape[0] // 2,) * 2] * 2 + [(0, 0)])
    rows, columns = (range(0, n, stride) for n in x.shape[:2])
    y = np.array(
        [
            [np.tensordot(around[i : i + size, j : j + size], kernel, axes=3) for j in columns]
            for i in rows
        ]
    )
    if groups:
        split = y.reshape(*y.shape[:2], groups, -1)
        mean = split.mean((0, 1, 3), keepdims=True)
        split = (split - mean) / np.sqrt(split.var((0, 1, 3), keepdims=True) + 1e-5)
        y = split.reshape(y.shape) * p[f"{name}.norm.scale"] + p[f"{name}.norm.bias"]
    else:
        y = y + p[f"{name}.conv.bias"]
    y = np.maximum(y, 0)
    rows, columns = (range(0, n, pool) for n in y.shape[:2])
    return np.array([[y[i : i + pool, j : j + pool].max((0, 1)) for j in columns] for i in rows])


@pytest.mark.parametrize(
    "settings", [{"norm": "group", "groups": 2}, {"norm": "none", "stride": 2}]
)
@pytest.mark.parametrize("frames", [False, True])
def test_a_plain_convolutional_network(settings, frames):
    sizes = (("height", 5), ("width", 7), ("channel", 2))
    given = Signature((("time", 2), *sizes) if frames else sizes)
    case = Case(ConvSpec(widths=(4, 6), **settings), given)
    values = case.values(2)
    out = np.asarray(case(values).values)
    flat = values.reshape(-1, 5, 7, 2)
    for i, x in enumerate(flat):
        for layer in range(2):
            stride, groups = settings.get("stride", 1), settings.get("groups", 0)
            x = plain_layer(case.p, f"layers.{layer}", x, stride=stride, pool=2, groups=groups)
        np.testing.assert_allclose(out.reshape(-1, *x.shape)[i], x, **TIGHT)
    assert out.shape[1:] == case.spec.infer({"input": given}).shape


def test_convolutions_along_time():
    case = Case(Conv1dSpec(width=3, depth=2, stride=2), sequence(5, 2, label="a"))
    values, p = case.values(1), case.p
    x = values[0]
    for layer in range(2):
        kernel = p[f"layers.{layer}.conv.kernel"]
        padded = np.pad(x, [(1, 1), (0, 0)])
        x = np.stack([np.tensordot(padded[i : i + 3], kernel, axes=2) for i in range(0, len(x), 2)])
        x = x + p[f"layers.{layer}.conv.bias"]
        x = x - x.mean(1, keepdims=True)
        x = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-6)
        x = x * p[f"layers.{layer}.norm.scale"] + p[f"layers.{layer}.norm.bias"]
        x = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    out = case(values)
    np.testing.assert_allclose(out.values[0], x, **TIGHT)
    assert out.spans == (Span("a", 2),)


def test_stages_of_a_residual_network_halve_the_map():
    given = Signature((("height", 5), ("width", 8), ("channel", 3)))
    spec = ResnetSpec(width=4, stages=(1, 1, 1), stem_stride=2)
    start = spec.infer_start({"input": given})
    assert start.sizes == (("height", 3), ("width", 4), ("channel", 4))
    assert spec.infer({"input": given}).sizes == (("height", 1), ("width", 1), ("channel", 16))


@pytest.mark.parametrize(
    ("spec", "given", "field"),
    [
        (MlpSpec(width=4), Signature((("time", 3),), dtype="int", classes=5), "input"),
        (RecurrentSpec(width=3, direction="both"), sequence(3, 4), "width"),
        (Conv1dSpec(width=4, kernel=4), sequence(3, 4), "kernel"),
        (Conv1dSpec(width=4), sequence(3, 4, spans=(Span("a", 1), Span("b", 2))), "input"),
        (ResnetSpec(norm="group", groups=5), Signature((("height", 4), ("width", 4))), "groups"),
        (ResnetSpec(), vector(4), "input"),
        (ConvSpec(), sequence(3, 4), "input"),
        (ConvSpec(kernel=2), Signature((("height", 4), ("width", 4))), "kernel"),
        (ConvSpec(norm="group", groups=5), Signature((("height", 4), ("width", 4))), "groups"),
    ],
)
def test_what_does_not_fit_is_refused(spec, given, field):
    with pytest.raises(WiringError) as caught:
        spec.infer({"input": given})
    assert caught.value.problem.path[0] == field


def test_layers_without_hooks_refuse_edits():
    case = Case(RecurrentSpec(width=4), sequence(3, 2))
    edits = Edits((Edit(skip={"mlp": None}),))
    with float64(), pytest.raises(FusekitError, match="a recurrent layer has no hooks"):
        case.build(case.p)({"input": Stream(case.values())}, context=STILL, edits=edits)

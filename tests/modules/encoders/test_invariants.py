"""What every encoder keeps: its signature, inertness of what is not there, independence."""

import jax
import numpy as np
import pytest
from flax import nnx

from fusekit.stream import Signature, Span, sequence, vector
from fusekit_modules.encoders.conv import ConvSpec
from fusekit_modules.encoders.conv1d import Conv1dSpec
from fusekit_modules.encoders.embed import EmbedSpec
from fusekit_modules.encoders.ft_transformer import FtTransformerSpec
from fusekit_modules.encoders.mlp import MlpSpec
from fusekit_modules.encoders.patches import PatchesSpec
from fusekit_modules.encoders.projection import ProjectionSpec
from fusekit_modules.encoders.recurrent import RecurrentSpec
from fusekit_modules.encoders.resnet import ResnetSpec
from fusekit_modules.encoders.transformer import TransformerSpec
from fusekit_modules.encoders.vit import VitSpec
from tests.modules.encoders.harness import Case

pytestmark = pytest.mark.slow
"""By default the conformance suite holds these, with fewer kinds of input."""

BOTH = {"padded": True, "optional": True}
FRAMES = sequence(4, 3, label="f", **BOTH)
CODES = Signature((("time", 4),), dtype="int", classes=5, spans=(Span("t", 4),), **BOTH)
SIGNAL = Signature((("time", 4),), spans=(Span("s", 4),), **BOTH)
PICTURE = Signature((("height", 4), ("width", 4), ("channel", 2)), optional=True)
SOUND = Signature((("time", 4), ("freq", 4)), spans=(Span("s", 4),), **BOTH)
FILM = Signature((("time", 4), ("height", 2), ("width", 2), ("channel", 1)), **BOTH)
TABLE = Signature((("field", 4),), cardinalities=(0, 3, 0, 2), **BOTH)
VECTOR = vector(3, optional=True)
NUMBER = Signature((), optional=True)
CLASS = Signature((), dtype="int", classes=5, optional=True)

PLAIN, CAUSAL, DROPPED, *SCANNING = TransformerSpec.examples()

CASES = [
    (TransformerSpec(**PLAIN), CODES),
    (TransformerSpec(**CAUSAL), FRAMES),
    (TransformerSpec(**DROPPED), FRAMES),
    *[(TransformerSpec(**example), FRAMES) for example in SCANNING],
    *[
        (VitSpec(**e), s)
        for e, s in zip(VitSpec.examples(), (PICTURE, SOUND, PICTURE), strict=True)
    ],
    (VitSpec(width=4, heads=2, depth=1, patch=(2, 2, 1)), FILM),
    (VitSpec(width=4, heads=2, depth=1, patch=(2,)), SIGNAL),
    *[(FtTransformerSpec(**e), TABLE) for e in FtTransformerSpec.examples()],
    *[
        (RecurrentSpec(**e), s)
        for e, s in zip(RecurrentSpec.examples(), (CODES, FRAMES, FRAMES), strict=True)
    ],
    *[(Conv1dSpec(**e), s) for e, s in zip(Conv1dSpec.examples(), (SIGNAL, FRAMES), strict=True)],
    *[(ConvSpec(**e), s) for e, s in zip(ConvSpec.examples(), (SOUND, PICTURE), strict=True)],
    *[(ConvSpec(**e), FILM) for e in ConvSpec.examples()],
    (ConvSpec(widths=(3,), norm="none", pool=3), SOUND),
    *[(ResnetSpec(**e), s) for e, s in zip(ResnetSpec.examples(), (SOUND, PICTURE), strict=True)],
    (MlpSpec(width=4, dropout=0.5), FRAMES),
    (MlpSpec(width=4), VECTOR),
    *[(ProjectionSpec(width=4), s) for s in (TABLE, NUMBER, SIGNAL, PICTURE)],
    *[(EmbedSpec(width=4), s) for s in (FRAMES, CODES, NUMBER, CLASS)],
    (PatchesSpec(width=4, patch=(2, 2)), SOUND),
]
PRESENCE = np.array([True, False, True])
MASK = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], bool)


def name(value):
    return value.type if hasattr(value, "type") else ""


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0].type}-{case[1].kind}")
def case(request):
    return Case(*request.param)


def test_signature_and_inertness(case):
    spec, given = case.spec, case.given
    mask = MASK if given.padded else None
    values = case.values()
    gone = ~PRESENCE.reshape(3, *(1,) * (values.ndim - 1))
    if mask is not None:
        gone = gone | ~MASK.reshape(3, 4, *(1,) * (values.ndim - 2))
    outs, grads = [], []
    for garbage in (0, np.nan, np.inf, 1e30) if given.dtype == "float" else (0, 99, -7):
        dirty = np.where(gone, garbage, values)
        outs.append(case(dirty, mask, PRESENCE))
        grads.append(case.gradients(dirty, mask, PRESENCE))
    want = spec.infer({"input": given})
    out = outs[0]
    assert out.values.shape[1:] == want.shape
    assert (out.mask is not None) == want.padded
    assert (out.presence is not None) == want.optional
    assert out.spans == want.spans
    assert out.grid == want.grid
    if want.kind == "sequence":
        assert sum(span.size for span in want.spans) == want.length
    for other, grad in zip(outs, grads, strict=True):
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((other.values, grad)))
        np.testing.assert_array_equal(other.values, out.values)
        for key, leaf in grad.items():
            np.testing.assert_array_equal(leaf, grads[0][key], err_msg=key)
    np.testing.assert_array_equal(out.values[1], np.zeros(out.values.shape[1:]))
    assert np.any(np.asarray(out.values[0]) != 0)


def test_samples_are_independent(case):
    values, mask = case.values(), MASK if case.given.padded else None
    other = np.array(case.values(seed=1))
    other[0] = values[0]
    modes = ("evaluate",) if case.spec.couples == "train" else ("evaluate", "train")
    for mode in modes:
        first, second = (case(x, mask, PRESENCE, mode=mode).values for x in (values, other))
        np.testing.assert_array_equal(first[0], second[0])


def test_everything_absent_is_finite_and_without_gradient(case):
    mask = np.zeros_like(MASK) if case.given.padded else None
    absent = np.zeros(3, bool)
    for key, grad in case.gradients(case.values(), mask, absent).items():
        np.testing.assert_array_equal(grad, np.zeros(grad.shape), err_msg=key)


LONGER = [
    (RecurrentSpec(width=4, depth=2, direction="both"), FRAMES),
    (Conv1dSpec(width=4, depth=3, stride=2), FRAMES),
    (TransformerSpec(width=4, heads=2, depth=2, positions="sinusoidal", readout=1), FRAMES),
    (TransformerSpec(width=4, heads=2, depth=2, positions="rotary", readout=1), CODES),
    (TransformerSpec(width=4, heads=2, depth=2, positions="keep", causal=True), FRAMES),
    (ResnetSpec(width=4, stages=(1, 1), norm="group", groups=2), SOUND),
    (ConvSpec(widths=(4, 4), norm="group", groups=2), SOUND),
    (RecurrentSpec(width=4, direction="both", readout=1), FRAMES),
    (VitSpec(width=4, heads=2, depth=1, patch=(2, 2), positions="sinusoidal"), SOUND),
]


@pytest.mark.parametrize(("spec", "given"), LONGER, ids=name)
def test_more_padding_changes_nothing(spec, given):
    longer = given.with_(sizes=(("time", 10), *given.sizes[1:]), spans=(Span("f", 10),))
    short, long = Case(spec, given), Case(spec, longer)
    long.p = short.p
    values = short.values()
    padded = np.concatenate([values, np.ones((3, 6, *values.shape[2:]), values.dtype)], 1)
    first = short(values, MASK, PRESENCE)
    second = long(padded, np.pad(MASK, [(0, 0), (0, 6)]), PRESENCE)
    size = first.values.shape[1]
    np.testing.assert_allclose(second.values[:, :size], first.values, rtol=1e-10, atol=1e-10)
    assert not np.any(np.asarray(second.mask)[:, size:])


def test_every_parameter_has_axes(case):
    for path, leaf in nnx.to_flat_state(nnx.state(case.module)):
        assert len(leaf.get_metadata()["axes"]) == leaf.ndim, path


def test_specs_survive_a_round_trip():
    for spec, _ in CASES:
        assert type(spec).model_validate(spec.model_dump(mode="json")) == spec

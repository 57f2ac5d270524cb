"""Transformer encoders against NumPy, and what they refuse."""

import numpy as np
import pytest

from fusekit.config.reference import Reference
from fusekit.errors import WiringError
from fusekit.stream import Signature, Span, sequence, vector
from fusekit_modules.encoders.embed import EmbedSpec
from fusekit_modules.encoders.ft_transformer import FtTransformerSpec
from fusekit_modules.encoders.patches import PatchesSpec
from fusekit_modules.encoders.transformer import TransformerSpec
from fusekit_modules.encoders.vit import VitSpec
from tests.modules.encoders.harness import Case
from tests.modules.layers.harness import TIGHT
from tests.reference import transformer as reference

SMALL = {"width": 4, "heads": 2, "depth": 2, "mlp_ratio": 1.5}


def trunk(p, x):
    for layer in range(2):
        x = reference.block(p, f"layers.{layer}.", x)
    return reference.norm(p, "end.norm", x)


def test_codes():
    given = Signature((("time", 3),), dtype="int", classes=5, padded=True, spans=(Span("t", 3),))
    case = Case(TransformerSpec(**SMALL, readout=2), given)
    values, mask = case.values(2), np.array([[1, 1, 0], [1, 1, 1]], bool)
    out = case(values, mask)
    p = case.p
    for i, row in enumerate(values):
        x = p["shell.embed.table"][row] + p["shell.positions.table"]
        x = np.concatenate([p["shell.readout.tokens"], x[mask[i]]])
        np.testing.assert_allclose(out.values[i, : len(x)], trunk(p, x), **TIGHT)
    assert out.spans == (Span("t", 2, readout=True), Span("t", 3))


def test_features_of_another_width_are_projected():
    case = Case(TransformerSpec(**SMALL, positions="sinusoidal"), sequence(3, 2))
    values, p = case.values(1), case.p
    x = values[0] @ p["shell.proj.kernel"] + p["shell.proj.bias"]
    x = x + reference.sines(np.arange(3), 4)
    np.testing.assert_allclose(case(values).values[0], trunk(p, x), **TIGHT)


def test_a_trunk_keeps_what_others_embedded():
    spans = (Span("image", 2), Span("text", 1))
    spec = TransformerSpec(heads=2, depth=2, mlp_ratio=1.5, input=Reference("cat"), readout=1)
    case = Case(spec, sequence(3, 4, spans=spans))
    assert not [name for name in case.p if "positions" in name or "proj" in name]
    values, p = case.values(1), case.p
    out = case(values)
    want = trunk(p, np.concatenate([p["shell.readout.tokens"], values[0]]))
    np.testing.assert_allclose(out.values[0], want, **TIGHT)
    assert out.spans == (Span("readout", 1, readout=True), *spans)


def test_positions_are_renewed():
    spec = TransformerSpec(heads=2, depth=2, mlp_ratio=1.5, positions="renew")
    case = Case(spec, sequence(3, 4, spans=(Span("a", 2), Span("b", 1))))
    out = case(case.values(1))
    np.testing.assert_array_equal(out.position, [0, 1, 2])
    x = case.values(1)[0] + case.p["shell.positions.table"]
    np.testing.assert_allclose(out.values[0], trunk(case.p, x), **TIGHT)


def test_patches_of_an_image_keep_their_grid():
    given = Signature((("height", 2), ("width", 4), ("channel", 3)))
    case = Case(VitSpec(**SMALL, patch=(2, 2), readout=1), given)
    values, p = case.values(1), case.p
    patches = np.stack([values[0, :, 2 * j : 2 * j + 2].reshape(-1) for j in range(2)])
    x = patches @ p["shell.patches.proj.kernel"] + p["shell.patches.proj.bias"]
    x = np.concatenate([p["shell.readout.tokens"], x + p["shell.positions.table"]])
    out = case(values)
    np.testing.assert_allclose(out.values[0], trunk(p, x), **TIGHT)
    assert out.grid == (("height", 1), ("width", 2))
    alone = Case(PatchesSpec(width=4, patch=(2, 2)), given)
    want = patches @ alone.p["patches.proj.kernel"] + alone.p["patches.proj.bias"]
    np.testing.assert_allclose(alone(values).values[0], want + alone.p["positions.table"], **TIGHT)


def test_missing_fields_are_read_by_nobody():
    given = Signature((("field", 3),), cardinalities=(0, 3, 0), padded=True)
    case = Case(FtTransformerSpec(**SMALL), given)
    values, mask = case.values(2), np.array([[1, 1, 1], [0, 1, 0]], bool)
    out, p = case(values, mask), case.p
    for i, row in enumerate(values):
        rows = [
            row[0] * p["shell.fields.scale"][0],
            p["shell.fields.table"][int(row[1])],
            row[2] * p["shell.fields.scale"][1],
        ]
        x = (np.stack(rows) + p["shell.fields.bias"])[mask[i]]
        want = trunk(p, np.concatenate([p["shell.readout.tokens"], x]))
        at = np.concatenate([[True], mask[i]])
        np.testing.assert_allclose(out.values[i][at], want, **TIGHT)


@pytest.mark.parametrize(
    ("spec", "given", "field", "says"),
    [
        (TransformerSpec(), vector(4), "input", "a vector where a sequence is due"),
        (
            TransformerSpec(),
            Signature((("time", 3),), dtype="int", classes=5),
            "width",
            "codes have no width",
        ),
        (TransformerSpec(width=6), sequence(3, 4), "heads", "the heads do not divide the width"),
        (TransformerSpec(), Signature((("time", 3),)), "input", "a signal of single numbers"),
        (
            VitSpec(width=4, patch=(3, 2)),
            Signature((("height", 4), ("width", 4), ("channel", 1))),
            "patch",
            "patches do not divide the height",
        ),
        (
            VitSpec(width=4, patch=(2,)),
            Signature((("height", 4), ("width", 4), ("channel", 1))),
            "patch",
            "the number of patch sizes",
        ),
        (VitSpec(width=4, patch=(2,)), vector(4), "input", "cannot be cut into patches"),
        (FtTransformerSpec(width=4), vector(4), "input", "where a table is due"),
        (
            EmbedSpec(width=4, readout=1),
            Signature((), dtype="int", classes=3),
            "readout",
            "no readout tokens",
        ),
    ],
)
def test_what_does_not_fit_is_refused(spec, given, field, says):
    with pytest.raises(WiringError, match=says) as caught:
        spec.infer({"input": given})
    assert caught.value.problem.path[0] == field

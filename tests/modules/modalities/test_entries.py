"""Collation of rows, against values worked by hand, and complaints that name the row."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from fusekit.errors import DataError
from fusekit_modules.modalities.features import FeaturesSpec
from fusekit_modules.modalities.image import ImageSpec
from fusekit_modules.modalities.label import LabelSpec
from fusekit_modules.modalities.labels import LabelsSpec
from fusekit_modules.modalities.number import NumberSpec
from fusekit_modules.modalities.spectrogram import SpectrogramSpec
from fusekit_modules.modalities.tabular import TabularSpec
from fusekit_modules.modalities.time_series import TimeSeriesSpec
from fusekit_modules.modalities.token_labels import TokenLabelsSpec
from fusekit_modules.modalities.tokens import TokensSpec
from fusekit_modules.modalities.video import VideoSpec
from fusekit_modules.modalities.waveform import WaveformSpec

TABLE = TabularSpec(numeric=("age", "mass"), categorical={"ward": 3, "sex": ("f", "m")})
NAN = float("nan")


def check(spec, rows, values, mask=None):
    """Collates, and compares with what is expected and with the signature."""
    found, found_mask = spec.collate(rows)
    np.testing.assert_allclose(found, values, rtol=1e-6)
    assert found.shape == (len(rows), *spec.signature().shape)
    assert found.dtype == {"float": np.float32, "int": np.int32}[spec.signature().dtype]
    assert (found_mask is not None) == spec.signature().padded
    if mask is not None:
        np.testing.assert_array_equal(found_mask, np.asarray(mask, bool))


def test_images():
    spec = ImageSpec(shape=(2, 1, 1))
    rows = [np.array([[0], [255]], np.uint8), np.array([[[0.5]], [[2.0]]])]
    check(spec, rows, [[[[0]], [[1]]], [[[0.5]], [[2]]]])
    check(ImageSpec(shape=(2, 1, 1), normalise="none"), rows[:1], [[[[0]], [[255]]]])
    standard = ImageSpec(shape=(1, 1, 2), normalise={"mean": (0.5, 1.0), "std": (0.5, 2.0)})
    check(standard, [np.array([[[255, 0]]], np.uint8)], [[[[1.0, -0.5]]]])
    with pytest.raises(ValueError, match="one entry a channel"):
        ImageSpec(shape=(1, 1, 3), normalise={"mean": (0.5,), "std": (0.5,)})


def test_images_from_files():
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    spec = ImageSpec(shape=(2, 3, 3))
    check(spec, [file.getvalue(), Image.fromarray(pixels)], np.stack([pixels, pixels]) / 255)


def test_images_of_16_bits_and_integers_of_lists():
    spec, deep = ImageSpec(shape=(1, 2, 1)), np.array([[0, 65535]], np.uint16)
    file = BytesIO()
    Image.fromarray(deep).save(file, "PNG")
    rows = [deep, deep[..., None], file.getvalue(), [[0, 255]], np.array([[0, 255]], np.int64)]
    check(spec, rows, [[[[0], [1]]]] * 5)
    check(ImageSpec(shape=(1, 2, 1), normalise="none"), [deep], [[[[0], [65535]]]])
    with pytest.raises(DataError, match=r"row 1 .* 256 among .* bytes"):
        spec.collate([deep, np.array([[0, 256]])])


def test_spectrograms():
    rows = [np.array([[1, 2, 3], [4, 5, 6]]), np.zeros((2, 3, 1))]
    spec = SpectrogramSpec(shape=(2, 3), mean=1.0, std=2.0)
    check(spec, rows, [[[[0], [0.5], [1]], [[1.5], [2], [2.5]]], np.full((2, 3, 1), -0.5)])
    assert spec.signature().axes == ("time", "frequency", "channel")


def test_waveforms():
    rows = [np.array([32767, -32767], np.int16), np.array([0.5, 1.0, 0.25])]
    check(
        WaveformSpec(length=3), rows, [[[1], [-1], [0]], [[0.5], [1], [0.25]]], [[1, 1, 0], [1] * 3]
    )
    check(WaveformSpec(length=2, longer="cut"), rows, [[[1], [-1]], [[0.5], [1]]])


def test_waveforms_of_other_integers():
    rows = [
        np.array([1, 128, 255], np.uint8),
        [-32767, 0, 32767],
        np.array([-32767, 0, 32767]),
        np.array([-(2**31) + 1, 0, 2**31 - 1], np.int32),
        [-1.0, 0, 1],
    ]
    check(WaveformSpec(length=3), rows, [[[-1], [0], [1]]] * 5)
    with pytest.raises(DataError, match=r"row 0 .* size 40000, .* 16-bit"):
        WaveformSpec(length=2).collate([[1, 40000]])


def test_videos():
    spec = VideoSpec(shape=(2, 1, 2, 1))
    rows = [np.full((1, 1, 2, 1), 51, np.uint8), np.ones((2, 1, 2, 1))]
    frames = [[[[[0.2], [0.2]]], [[[0], [0]]]], np.ones((2, 1, 2, 1))]
    check(spec, rows, frames, [[1, 0], [1, 1]])


def test_tokens():
    check(
        TokensSpec(vocab=5, length=3),
        [[4], [1, 2, 3]],
        [[4, 0, 0], [1, 2, 3]],
        [[1, 0, 0], [1] * 3],
    )
    check(TokensSpec(vocab=5, length=2), [np.array([], int)], [[0, 0]], [[0, 0]])
    signature = TokensSpec(vocab=5, length=3, optional=True).signature()
    assert (signature.classes, signature.kind, signature.optional) == (5, "sequence", True)


def test_token_labels():
    spec = TokenLabelsSpec(classes=("out", "in"), length=3)
    rows = [["in", None], np.array([0, -1, 1], np.int8), [1, "out"]]
    check(spec, rows, [[1, 0, 0], [0, 0, 1], [1, 0, 0]], [[1, 0, 0], [1, 0, 1], [1, 1, 0]])


def test_time_series():
    check(TimeSeriesSpec(length=2, channels=1), [[3.0]], [[[3], [0]]], [[1, 0]])
    check(TimeSeriesSpec(length=1, channels=2, padded=False), [[[1, 2]]], [[[1, 2]]])


def test_features():
    check(FeaturesSpec(width=2), [[1, 2], np.array([3, 4])], [[1, 2], [3, 4]])
    check(FeaturesSpec(width=1, length=2), [[[1.5]]], [[[1.5], [0]]], [[1, 0]])
    with pytest.raises(ValueError, match="give a length"):
        FeaturesSpec(width=2, longer="cut")


def test_labels_and_numbers():
    check(LabelSpec(classes=3), [2, np.int64(0), 1.0, np.array([2])], [2, 0, 1, 2])
    check(LabelSpec(classes=("cat", "dog")), ["dog", b"cat", 1, np.str_("cat")], [1, 0, 1, 0])
    named = LabelsSpec(classes=("a", "b", "c"))
    check(named, [["c", "a"], [], [0, 1, 0]], [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    check(LabelsSpec(classes=2), [[True, False]], [[1, 0]])
    check(NumberSpec(mean=1.0, std=2.0), [5, np.array([1.0])], [2, 0])


def test_tables():
    rows = [
        {"age": 30, "ward": 2, "sex": "m"},
        [NAN, 70.5, None, "f"],
        {"age": np.float32("nan"), "mass": 1},
    ]
    values = [[30, 0, 2, 1], [0, 70.5, 0, 0], [0, 1, 0, 0]]
    check(TABLE, rows, values, [[1, 0, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0]])
    signature = TABLE.signature()
    assert signature.names == ("age", "mass", "ward", "sex")
    assert signature.cardinalities == (0, 0, 3, 2)
    assert signature.kind == "table"


GOOD = {
    "image": (ImageSpec(shape=(2, 2, 1)), np.zeros((2, 2, 1))),
    "spectrogram": (SpectrogramSpec(shape=(2, 2)), np.zeros((2, 2))),
    "waveform": (WaveformSpec(length=2), [0.0, 0.0]),
    "video": (VideoSpec(shape=(2, 1, 1, 1)), np.zeros((2, 1, 1, 1))),
    "tokens": (TokensSpec(vocab=5, length=2), [1, 2]),
    "token_labels": (TokenLabelsSpec(classes=("out", "in"), length=2), ["in"]),
    "time_series": (TimeSeriesSpec(length=2, channels=2), [[0, 0]]),
    "features": (FeaturesSpec(width=2), [0, 0]),
    "label": (LabelSpec(classes=("cat", "dog")), "cat"),
    "labels": (LabelsSpec(classes=("cat", "dog")), ["cat"]),
    "number": (NumberSpec(), 1.0),
    "tabular": (TABLE, {}),
}


@pytest.mark.parametrize("name", GOOD)
def test_no_row_gives_empty_arrays(name):
    spec, _ = GOOD[name]
    values, mask = spec.collate([])
    assert values.shape == (0, *spec.signature().shape)
    assert mask is None or len(mask) == 0


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("image", np.zeros((2, 3, 1)), "(2, 3, 1)"),
        ("image", np.full((2, 2, 1), NAN), "finite"),
        ("image", b"no image", "bytes of an image file"),
        ("image", "cat.png", "shape (2, 2, 1)"),
        ("spectrogram", np.zeros((3, 2)), "shape (2, 2)"),
        ("waveform", [0.0] * 3, "at most 2"),
        ("waveform", "loud", "waveform of numbers"),
        ("video", np.zeros((3, 1, 1, 1)), "at most 2"),
        ("tokens", [5], "codes from 0 to 4"),
        ("tokens", [1.5], "integer codes"),
        ("tokens", "a text", "tokenise"),
        ("tokens", [[1, 2]], "shape (any)"),
        ("token_labels", ["inn"], "did you mean in"),
        ("token_labels", np.array([2]), "codes from 0"),
        ("token_labels", 3, "sequence of classes"),
        ("time_series", [[0, 0, 0]], "shape (any, 2)"),
        ("time_series", [[1e300, 0]], "finite"),
        ("features", [0], "shape (2)"),
        ("features", None, "features in numbers"),
        ("label", "cow", "one of cat, dog"),
        ("label", 2, "codes from 0 to 1"),
        ("label", [0, 1], "one class"),
        ("labels", ["cow"], "one of cat, dog"),
        ("labels", [0.5, 0], "0 or 1"),
        ("labels", "cat", "declared names"),
        ("labels", 3, "shape (2)"),
        ("labels", None, "declared names"),
        ("labels", np.array(3), "shape (2)"),
        ("labels", {"cat": 0}, "declared names"),
        ("number", [1, 2], "one number"),
        ("number", "1.5", "a number"),
        ("number", NAN, "finite"),
        ("tabular", {"agee": 3}, "did you mean age"),
        ("tabular", [1, 2], "4: "),
        ("tabular", {"sex": "x"}, "one of f, m"),
        ("tabular", {"ward": 3}, "codes from 0 to 2"),
        ("tabular", {"age": "old"}, "age = "),
        ("tabular", {"age": np.inf}, "finite"),
        ("tabular", 3, "mapping"),
    ],
)
def test_complaints_name_the_row(name, row, words):
    spec, good = GOOD[name]
    with pytest.raises(DataError) as error:
        spec.collate([good, row])
    assert "row 1 " in str(error.value)
    assert words in str(error.value)


def test_rows_of_exact_length():
    with pytest.raises(DataError, match=r"row 0.*1 positions.*expected 2"):
        TokensSpec(vocab=5, length=2, padded=False).collate([[1]])


@pytest.mark.parametrize("name", GOOD)
def test_data_is_no_view(name):
    spec, _ = GOOD[name]
    with pytest.raises(ValueError, match="holds data"):
        type(spec).model_validate({**spec.model_dump(), "of": "batch.x"})
    assert type(spec).model_validate(spec.model_dump()) == spec
    assert spec.infer({}) == spec.signature()

import numpy as np
import pytest

from fusekit.errors import DataError
from fusekit_modules.transforms.crop import CropSpec
from fusekit_modules.transforms.flip import FlipSpec
from fusekit_modules.transforms.resize import ResizeSpec

IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def apply(spec, value, seed=0):
    row = {"image": value, "label": 3}
    before = value.copy()
    changed = spec.apply(row, np.random.default_rng(seed))
    np.testing.assert_array_equal(value, before)
    assert changed["label"] == 3
    return changed["image"]


def test_flip():
    across = apply(FlipSpec(modality="image", rate=1.0), IMAGE)
    np.testing.assert_array_equal(across, IMAGE[:, ::-1])
    down = apply(FlipSpec(modality="image", rate=1.0, axis="height"), IMAGE[..., 0])
    np.testing.assert_array_equal(down, IMAGE[::-1, :, 0])
    video = np.stack([IMAGE, IMAGE + 1])
    flipped = apply(FlipSpec(modality="image", rate=1.0), video)
    np.testing.assert_array_equal(flipped, video[:, :, ::-1])


def test_flip_rate():
    spec = FlipSpec(modality="image", rate=0.25)
    flipped = [apply(spec, IMAGE, seed)[0, 0, 0] != 0 for seed in range(2000)]
    assert abs(np.mean(flipped) - 0.25) < 0.05
    assert np.array_equal(apply(spec, IMAGE, 7), apply(spec, IMAGE, 7))


@pytest.mark.parametrize(
    ("fill", "mode"), [("zero", "constant"), ("edge", "edge"), ("reflect", "reflect")]
)
def test_crop_is_a_window_of_the_padded_image(fill, mode):
    spec = CropSpec(modality="image", padding=1, fill=fill)
    padded = np.pad(IMAGE, [(1, 1), (1, 1), (0, 0)], mode=mode)
    windows = {padded[y : y + 2, x : x + 4].tobytes() for y in range(3) for x in range(3)}
    found = {apply(spec, IMAGE, seed).tobytes() for seed in range(200)}
    assert found == windows


def test_crop_treats_frames_alike():
    video = np.stack([IMAGE, IMAGE])
    cut = apply(CropSpec(modality="image", padding=2), video, 3)
    assert cut.shape == video.shape
    np.testing.assert_array_equal(cut[0], cut[1])


def test_resize():
    blocks = np.kron(np.array([[10, 20], [30, 40]], np.uint8), np.ones((2, 2), np.uint8))
    small = apply(ResizeSpec(modality="image", size=(2, 2), filter="nearest"), blocks[..., None])
    np.testing.assert_array_equal(small[..., 0], [[10, 20], [30, 40]])
    assert small.dtype == np.uint8
    ramp = np.linspace(0, 1, 8)[None, :, None].repeat(4, 0)
    smaller = apply(ResizeSpec(modality="image", size=(2, 4)), ramp)
    assert smaller.dtype == np.float32
    assert smaller.shape == (2, 4, 1)
    np.testing.assert_allclose(smaller.mean(), 0.5, atol=1e-6)


def test_absent_stays_absent():
    row = {"label": 3}
    assert FlipSpec(modality="image").apply(row, np.random.default_rng(0)) == row


def test_errors():
    with pytest.raises(DataError, match=r"flip changes images; this array has shape \(3,\)"):
        apply(FlipSpec(modality="image"), np.zeros(3))
    with pytest.raises(DataError, match="changes arrays of numbers; image is none"):
        apply(FlipSpec(modality="image"), np.array(["a"]))

import numpy as np
import pytest

from fusekit.errors import DataError, SpecError
from fusekit_modules.transforms.drop_tokens import DropTokensSpec
from fusekit_modules.transforms.noise import NoiseSpec
from fusekit_modules.transforms.normalise import NormaliseSpec
from fusekit_modules.transforms.spec_mask import SpecMaskSpec
from fusekit_modules.transforms.tokenise import TokeniseSpec


def apply(spec, value, seed=0):
    return spec.apply({"m": value}, np.random.default_rng(seed))["m"]


def test_noise_has_its_deviation():
    value = np.full((100, 100), 3.0, np.float32)
    noisy = apply(NoiseSpec(modality="m", deviation=0.5), value)
    assert noisy.dtype == np.float32
    assert abs(noisy.mean() - 3) < 0.03
    assert abs(noisy.std() - 0.5) < 0.02
    assert (value == 3).all()


def test_noise_on_bytes_stays_in_range():
    noisy = apply(NoiseSpec(modality="m", deviation=50), np.full(2000, 250, np.uint8))
    assert noisy.dtype == np.uint8
    assert abs((noisy == 255).mean() - 0.46) < 0.05  # P(N > 4.5 / 50) = 0.464
    assert noisy.min() < 200


def test_normalise():
    value = np.array([[1, 10], [3, 30]], np.uint8)
    spec = NormaliseSpec(modality="m", mean=(1.0, 10.0), deviation=(2.0, 5.0))
    np.testing.assert_array_equal(apply(spec, value), [[0, 0], [1, 4]])
    np.testing.assert_array_equal(
        apply(NormaliseSpec(modality="m", mean=1, deviation=4), value), [[0, 2.25], [0.5, 7.25]]
    )
    assert spec.when == "always"
    with pytest.raises(DataError, match=r"2 numbers for m, whose array has shape \(3,\)"):
        apply(spec, np.zeros(3))


@pytest.mark.parametrize("seed", range(20))
def test_spec_mask(seed):
    value = np.random.default_rng(99).normal(size=(12, 9)) + 5
    spec = SpecMaskSpec(modality="m", time_masks=1, time_width=4, band_masks=1, band_width=3)
    masked = apply(spec, value, seed)
    hit = masked != value
    frames, bands = hit.all(axis=1), hit.all(axis=0)
    # a run of frames and a run of bands, nothing else
    np.testing.assert_array_equal(hit, frames[:, None] | bands[None])
    for run, width in ((frames, 4), (bands, 3)):
        rows = np.flatnonzero(run)
        assert len(rows) <= width
        assert not len(rows) or rows[-1] - rows[0] == len(rows) - 1
    np.testing.assert_allclose(masked[hit], value.mean())


def test_spec_mask_widths_are_uniform():
    spec = SpecMaskSpec(modality="m", time_width=3, band_masks=0, fill="zero")
    value = np.ones((10, 4))
    widths = [int((apply(spec, value, seed)[:, 0] == 0).sum()) for seed in range(2000)]
    np.testing.assert_allclose(np.bincount(widths, minlength=4) / 2000, 0.25, atol=0.05)


def test_drop_tokens():
    value = np.arange(1, 1001)
    left = apply(DropTokensSpec(modality="m", rate=0.3, keep=5), value)
    assert left[:5].tolist() == [1, 2, 3, 4, 5]
    assert (np.diff(left) > 0).all()
    assert abs(len(left) - 5 - 995 * 0.7) < 5 * np.sqrt(995 * 0.21)
    assert len(apply(DropTokensSpec(modality="m", rate=1.0), value)) == 1
    assert apply(DropTokensSpec(modality="m", rate=1.0), np.zeros((0,), int)).shape == (0,)


def test_tokenise():
    assert apply(TokeniseSpec(modality="m"), "aé").tolist() == [98, 196, 170]
    assert apply(TokeniseSpec(modality="m", cut=2), "aé").tolist() == [98, 196]
    words = apply(TokeniseSpec(modality="m", by="words", vocab=500), "A cat, a CAT.")
    assert words[0] == words[3]
    assert words[1] == words[4]
    assert len(words) == 6
    assert words.min() >= 1
    assert words.max() < 500
    with pytest.raises(DataError, match="tokenise changes text; m is int"):
        apply(TokeniseSpec(modality="m"), 3)
    with pytest.raises(SpecError, match="bytes need a vocab of 257"):
        TokeniseSpec(modality="m", vocab=100)

"""The merge in the frequency domain against NumPy's complex arithmetic."""

import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence, vector
from fusekit_modules.fusion.frequency_merge import FrequencyMergeSpec, merge
from tests.modules.fusion.harness import Case, check


def merged(xs, weights):
    """The transform along the first axis; all of it, not the half that real numbers need."""
    total = sum(weights[k] for k in xs)
    shares = {k: weights[k] / total for k in xs}
    spectra = {k: np.fft.fft(x, axis=0) for k, x in xs.items()}
    sizes = {k: np.sqrt(np.abs(f) ** 2 + 1e-12) for k, f in spectra.items()}
    length = 1 / sum(shares[k] / sizes[k] for k in xs)
    mean = sum(shares[k] * spectra[k] / sizes[k] for k in xs)
    out = np.fft.ifft(length * mean / np.sqrt((np.abs(mean) ** 2 + 1e-6) / (1 + 1e-6)), axis=0)
    assert np.abs(out.imag).max() < 1e-9
    return out.real


@pytest.mark.parametrize("length", [5, 6])
def test_latents(length):
    streams = [sequence(length, 3, label="m0"), sequence(length, 3, label="m0")]
    weights = {0: 1.0, 1: 3.0}
    spec = FrequencyMergeSpec(weights=(1.0, 3.0))
    check(spec, streams, lambda p, xs: merged(xs, weights))


def test_vectors():
    weights = dict.fromkeys(range(3), 1.0)
    check(FrequencyMergeSpec(), [4, 4, 4], lambda p, xs: merged(xs, weights))


def test_by_hand():
    """Of constants only frequency 0 is there: the harmonic mean of 1 and 3 is 1.5."""
    x = jnp.asarray([[[1.0] * 4, [3.0] * 4]])
    np.testing.assert_allclose(merge(x, jnp.full((1, 2), 0.5)), [[1.5] * 4], rtol=1e-5)


def test_one_input_alone_comes_back():
    case = Case(FrequencyMergeSpec(), {k: vector(6, optional=True) for k in "ab"})
    arrays = {k: case.rng.normal(size=(1, 6)) for k in "ab"}
    out = case.run(arrays, np.array([[True, False]]))["out"].values
    np.testing.assert_allclose(out, arrays["a"], rtol=1e-9)


def test_refuses():
    spec = FrequencyMergeSpec()
    with pytest.raises(WiringError, match="is padded"):
        spec.infer({"a": sequence(4, 3), "b": sequence(4, 3, padded=True)})
    with pytest.raises(WiringError, match="differ in time"):
        spec.infer({"a": sequence(4, 3), "b": sequence(5, 3)})
    with pytest.raises(WiringError, match="number of weights"):
        FrequencyMergeSpec(weights=(1.0,)).infer({"a": vector(3), "b": vector(3)})

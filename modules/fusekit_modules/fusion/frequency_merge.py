"""Merging latents in the frequency domain."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from fusekit.component import FusionSpec, Outputs, Positive, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.fusion._present import emit, read
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence, expect_vector
from fusekit_modules.layers.wide import wide

EPSILON = 1e-12
OPPOSED = 1e-6
"""Squared length of a mean of phases below which it counts as none. Of two equal and opposite
phases the mean is what rounding left, and its direction says nothing."""


@register
class FrequencyMergeSpec(FusionSpec):
    """Harmonic mean of magnitudes and mean of phases, frequency by frequency: LegoMerge (Hemker et
    al. 2024, sec. 3.2), which needs no training.

    Of latents `[b, n, d]` the transform is along n, of vectors along their features. The magnitude
    is 1 / sum_k (w_k / |F_k|) for shares w that add up to one over the present inputs, so that one
    input alone comes back as it is. The phase is the direction of sum_k w_k F_k / |F_k|: the mean
    of angles, which is published, jumps where an angle passes from pi to -pi. Where phases cancel
    (a mean shorter than about 0.001) the merge goes to zero.
    """

    type: Literal["frequency_merge"] = "frequency_merge"
    weights: tuple[Positive, ...] = Field((), description="one an input; default all one")

    def infer(self, inputs: Signatures) -> Outputs:
        """As each input. Raises `WiringError` unless all are vectors, or all are sequences without
        padding, of one size: the transform of a sequence depends on its length."""
        expect_count(inputs, least=2)
        kinds = {signature.kind for signature in inputs.values()}
        for role, signature in inputs.items():
            if kinds == {"vector"}:
                expect_vector(signature, role)
            elif expect_sequence(signature, role).padded:
                expected = "latents of a fixed number, such as those of a resampler"
                path = ("inputs", role)
                raise WiringError(
                    f"{role!r} is padded", found=signature, expected=expected, field=path
                )
        for axis in next(iter(inputs.values())).axes:
            expect_same(inputs, axis)
        if self.weights and len(self.weights) != len(inputs):
            found, expected = len(self.weights), f"{len(inputs)}, one an input"
            message = "the number of weights is not that of the inputs"
            raise WiringError(message, found=found, expected=expected, field=("weights",))
        first = next(iter(inputs.values()))
        return first.with_(optional=all(signature.optional for signature in inputs.values()))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "FrequencyMerge":
        return FrequencyMerge(self.weights or (1.0,) * len(inputs))

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"weights": (1.0, 2.0, 0.5)}]


class FrequencyMerge(nnx.Module):
    """`[b, n, d]` each -> `[b, n, d]`; or `[b, d]`."""

    def __init__(self, weights: tuple[float, ...]):
        self.weights = weights

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        (first, *_), (values, present) = list(streams.values()), read(streams)
        stacked = wide(jnp.stack(values, axis=1))
        shares = jnp.where(present, jnp.asarray(np.asarray(self.weights), stacked.dtype), 0)
        total = jnp.sum(shares, axis=1, keepdims=True)
        shares = shares / jnp.where(total > 0, total, 1)
        merged = merge(stacked, shares).astype(first.values.dtype)
        out = emit(merged, streams.values())
        return out.with_(spans=first.spans, grid=first.grid)


def merge(x: Float[Array, "b m n *d"], shares: Float[Array, "b m"]) -> Float[Array, "b n *d"]:
    """The merge along `n`; entries with no share are not read."""
    shares = shares.reshape(*shares.shape, *(1,) * (x.ndim - 2))
    spectrum = jnp.fft.rfft(x, axis=2)
    real, imaginary = jnp.real(spectrum), jnp.imag(spectrum)
    magnitude = jnp.sqrt(jnp.square(real) + jnp.square(imaginary) + EPSILON)
    length = 1 / jnp.maximum(jnp.sum(shares / magnitude, axis=1), EPSILON)
    mean_real = jnp.sum(shares * real / magnitude, axis=1)
    mean_imaginary = jnp.sum(shares * imaginary / magnitude, axis=1)
    square = jnp.square(mean_real) + jnp.square(mean_imaginary)
    scale = length * jnp.sqrt((1 + OPPOSED) / (square + OPPOSED))
    merged = jax.lax.complex(mean_real * scale, mean_imaginary * scale)
    return jnp.fft.irfft(merged, n=x.shape[2], axis=1)

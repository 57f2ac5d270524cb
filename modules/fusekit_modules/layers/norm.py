"""Layer norms. All arithmetic is in float32 at least; scale and bias may get deltas."""

from collections.abc import Sequence
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Float

from fusekit.layered import NormDelta
from fusekit.parameter import parameter
from fusekit_modules.layers.standard import standard
from fusekit_modules.layers.wide import wide

NormName = Literal["layer", "rms"]


def _beside(delta: Array, x: Array) -> Array:
    """A `[d]`, `[b, d]` or whole delta, shaped to be added to `x [b, ..., d]`."""
    if delta.ndim in (1, x.ndim):
        return delta.astype(x.dtype)
    return delta.reshape(delta.shape[0], *(1,) * (x.ndim - 2), delta.shape[-1]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis (Ba et al. 2016): (x - mean) / sqrt(var + epsilon),
    with the biased variance, times scale, plus bias."""

    def __init__(self, width: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs):
        self.epsilon = epsilon
        self.scale = parameter(rngs, nnx.initializers.ones, (width,), ("embed",))
        self.bias = parameter(rngs, nnx.initializers.zeros, (width,), ("embed",))

    def __call__(
        self, x: Float[Array, "b *n d"], deltas: Sequence[NormDelta] = ()
    ) -> Float[Array, "b *n d"]:
        """Deltas add to scale and bias."""
        scale, bias = _shifted(x, self.scale[...], self.bias[...], deltas)
        return standard(True, self.epsilon, x, scale, bias)


class RMSNorm(nnx.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019): x / sqrt(mean x^2 + epsilon),
    times scale. It has no bias of its own; a delta's bias is added."""

    def __init__(self, width: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs):
        self.epsilon = epsilon
        self.scale = parameter(rngs, nnx.initializers.ones, (width,), ("embed",))

    def __call__(
        self, x: Float[Array, "b *n d"], deltas: Sequence[NormDelta] = ()
    ) -> Float[Array, "b *n d"]:
        """Deltas add to scale and bias."""
        scale, bias = _shifted(x, self.scale[...], None, deltas)
        return standard(False, self.epsilon, x, scale, bias)


def _shifted(
    x: Array, scale: Array, bias: Array | None, deltas: Sequence[NormDelta]
) -> tuple[Array, Array | None]:
    """Scale and bias with all deltas, in the dtype of the arithmetic."""
    high = jax.eval_shape(wide, x)
    scale = scale.astype(high.dtype)
    bias = None if bias is None else bias.astype(high.dtype)
    for delta in deltas:
        extra = _beside(delta.bias, high)
        scale = scale + _beside(delta.scale, high)
        bias = extra if bias is None else bias + extra
    return scale, bias


def norm(name: NormName, width: int, *, rngs: nnx.Rngs) -> LayerNorm | RMSNorm:
    """The norm of that name."""
    return LayerNorm(width, rngs=rngs) if name == "layer" else RMSNorm(width, rngs=rngs)

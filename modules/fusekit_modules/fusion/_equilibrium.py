"""The update whose fixed point the equilibrium fusion seeks."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Float

from fusekit.parameter import parameter
from fusekit_modules.layers.linear import Linear

EPSILON = 1e-5
SMALL = 0.01
"""Of LeCun's variance: from a tenth of its scale the first updates do have a fixed point. From all
of it, none is found at width 64."""


class Update(nnx.Module):
    """One update of all states; those of the modalities side by side, each with its own weights."""

    def __init__(self, count: int, width: int, groups: int, *, rngs: nnx.Rngs):
        shape, axes = (2, count, width, width), (None, None, "embed", "features")
        init = initializers.variance_scaling(SMALL, "fan_in", "normal", batch_axis=(0, 1))
        self.kernels = parameter(rngs, init, shape, axes)
        self.biases = parameter(rngs, initializers.zeros, (2, count, width), (None, None, "embed"))
        self.norms = nnx.List([Norm((count, width), groups, rngs=rngs) for _ in range(3)])
        init = initializers.variance_scaling(SMALL, "fan_in", "normal")
        linear = partial(Linear, width, width, axes=("embed", "features"), init=init, rngs=rngs)
        self.gate, self.fuse = linear(), linear()
        self.norm = Norm((width,), groups, rngs=rngs)

    def __call__(
        self,
        z: Float[Array, "b n"],
        injected: Float[Array, "b m d"],
        present: Float[Array, "b m"],
    ) -> Float[Array, "b n"]:
        """Of a modality, norm(relu(norm(B relu(norm(A z_k)) + x_k) + z_k)); of the fused state,
        norm(relu(W sum_k (G (z_k + z)) * z + sum_k x_k)) with the new z_k of the present ones."""
        states = z.reshape(z.shape[0], -1, injected.shape[-1])
        each, fused = states[:, :-1], states[:, -1]
        kernels, biases = self.kernels[...].astype(z.dtype), self.biases[...].astype(z.dtype)
        inner = jnp.einsum("bmd,mde->bme", each, kernels[0]) + biases[0]
        inner = jnp.einsum("bmd,mde->bme", jax.nn.relu(self.norms[0](inner)), kernels[1])
        inner = self.norms[1](inner + biases[1] + injected)
        new = self.norms[2](jax.nn.relu(inner + each))
        purified = self.gate(new + fused[:, None]) * fused[:, None]
        total = self.fuse(jnp.einsum("bm,bmd->bd", present, purified))
        combined = self.norm(jax.nn.relu(total + jnp.sum(injected, axis=1)))
        return jnp.concatenate([new, combined[:, None]], axis=1).reshape(z.shape)


class Norm(nnx.Module):
    """Group norm over the last axis; scale and bias may differ along the axis before it."""

    def __init__(self, shape: tuple[int, ...], groups: int, *, rngs: nnx.Rngs):
        self.groups, axes = groups, (*(None for _ in shape[1:]), "embed")
        self.scale = parameter(rngs, initializers.ones, shape, axes)
        self.bias = parameter(rngs, initializers.zeros, shape, axes)

    def __call__(self, x: Float[Array, "b *m d"]) -> Float[Array, "b *m d"]:
        split = x.reshape(*x.shape[:-1], self.groups, -1)
        centred = split - jnp.mean(split, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normal = (centred * jax.lax.rsqrt(variance + EPSILON)).reshape(x.shape)
        return normal * self.scale[...].astype(x.dtype) + self.bias[...].astype(x.dtype)

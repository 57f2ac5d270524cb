"""The low-rank product said plainly, in float32 at least: what every other backend must equal."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Reason
from fusekit_modules.ops.low_rank.form import Given


def unsupported(*_: Any) -> Reason:
    return None


def forward(given: Given) -> Float[Array, "b out"]:
    """The sum over ranks of the mixed products of all modalities' factors, and the bias. Factors
    of all ranks are held."""
    wide = jax.tree.map(lambda array: array.astype(given.wide), given)
    product = jnp.ones((), given.wide)
    for vector, (offsets, weights) in zip(wide.vectors, wide.factors, strict=True):
        maps = jnp.einsum("bd,rdo->rbo", vector, weights, precision="highest")
        product = product * (offsets[:, None] + maps)
    summed = jnp.einsum("r,rbo->bo", wide.mix, product, precision="highest") + wide.bias
    return summed.astype(given.vectors[0].dtype)


def backward(given: Given, grad: Float[Array, "b out"]) -> Given:
    """By all that is given, by autodiff."""
    (found,) = jax.vjp(forward, given)[1](grad)
    return found

"""What is asked of a low-rank product: its arguments, as all backends take them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from fusekit.errors import FusekitError


class Factor(NamedTuple):
    """Of one modality, by rank: what the constant 1 in front of its vector gives, and what the
    vector gives. Two arrays, so that weights start where a tile does."""

    offsets: Float[Array, "rank out"]
    weights: Float[Array, "rank d out"]


class Given(NamedTuple):
    """Everything that a low-rank product reads; gradients have the same form."""

    vectors: Any
    factors: Any
    mix: Any
    bias: Any

    @property
    def wide(self) -> Any:
        """The dtype in which products are multiplied and summed."""
        return jnp.promote_types(self.vectors[0].dtype, jnp.float32)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Modalities, ranks, rows and features of the result. In a program for any number of rows
        these are a symbol."""
        rows = self.vectors[0].shape[0]
        return (len(self.vectors), *self.mix.shape, rows, *self.bias.shape)

    def in_dtype(self, like: "Given") -> "Given":
        """In the dtypes of another."""
        return Given(
            tuple(a.astype(b.dtype) for a, b in zip(self.vectors, like.vectors, strict=True)),
            tuple(
                Factor(*(a.astype(b.dtype) for a, b in zip(mine, theirs, strict=True)))
                for mine, theirs in zip(self.factors, like.factors, strict=True)
            ),
            self.mix.astype(like.mix.dtype),
            self.bias.astype(like.bias.dtype),
        )


def given_of(vectors: Sequence[Array], factors: Sequence[Factor], mix: Array, bias: Array) -> Given:
    """The checked arguments. Raises `FusekitError` for numbers, shapes and dtypes that do not
    fit."""
    if not vectors or len(vectors) != len(factors):
        raise FusekitError(
            f"a low-rank product of {len(vectors)} vectors has {len(factors)} factors: it needs "
            "one vector or more, and a factor for each"
        )
    rank, width, dtype = mix.shape[0], bias.shape[0], vectors[0].dtype
    rows = vectors[0].shape[0]
    for number, (vector, factor) in enumerate(zip(vectors, factors, strict=True)):
        due = {
            f"vector {number}": (vector, (rows, vector.shape[-1])),
            f"the offsets of factor {number}": (factor.offsets, (rank, width)),
            f"the weights of factor {number}": (factor.weights, (rank, vector.shape[-1], width)),
        }
        for name, (array, shape) in due.items():
            if array.shape != shape:
                raise FusekitError(f"{name} has shape {array.shape}, not {shape}")
            if array.dtype != dtype:
                raise FusekitError(f"{name} is {array.dtype}, not {dtype}")
    return Given(tuple(vectors), tuple(factors), mix, bias)

"""Tables as tokens (one a field) or as vectors."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fusekit.context import Context
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream


class FieldTokens(nnx.Module):
    """One token a field (Gorishniy et al. 2021, equation 1): a number scales the field's vector,
    a category looks one up; either is added to the field's bias.

    Args:
      cardinalities: categories of each field; 0 for a number.
      width: size of a token.
    """

    def __init__(self, cardinalities: tuple[int, ...], width: int, *, rngs: nnx.Rngs):
        self.cardinalities = cardinalities
        self.numbers = tuple(i for i, size in enumerate(cardinalities) if size == 0)
        self.categories = tuple(i for i, size in enumerate(cardinalities) if size > 0)
        init = nnx.initializers.normal(width**-0.5)
        shape = (len(self.numbers), width)
        self.scale = parameter(rngs, init, shape, ("features", "embed")) if self.numbers else None
        self.table = (
            parameter(rngs, init, (sum(cardinalities), width), ("vocab", "embed"))
            if self.categories
            else None
        )
        self.bias = parameter(rngs, init, (len(cardinalities), width), ("features", "embed"))

    def __call__(self, table: Float[Array, "b f"], *, context: Context) -> Float[Array, "b f d"]:
        parts: dict[int, Array] = {}
        if self.scale is not None:
            scale = self.scale[...].astype(context.dtype)
            for row, index in enumerate(self.numbers):
                parts[index] = table[:, index, None].astype(scale.dtype) * scale[row]
        if self.table is not None:
            rows = self.table[...].astype(context.dtype)
            offsets = list(itertools.accumulate(self.cardinalities, initial=0))
            for index in self.categories:
                code = jnp.clip(table[:, index].astype(jnp.int32), 0, self.cardinalities[index] - 1)
                parts[index] = jnp.take(rows, code + offsets[index], axis=0)
        tokens = jnp.stack([parts[index] for index in range(len(self.cardinalities))], axis=1)
        return tokens + self.bias[...].astype(tokens.dtype)


def vector_width(signature: Signature) -> int:
    """Size of what `as_vector` gives for a table of this signature."""
    known = signature.size("field")
    cards = signature.cardinalities or (0,) * known
    return sum(max(card, 1) for card in cards) + (known if signature.padded else 0)


def as_vector(stream: Stream, signature: Signature, *, context: Context) -> Float[Array, "b d"]:
    """A table as one vector: numbers as they are, categories as indicators, then, if fields may
    be missing, an indicator of each that is known. A missing field is all zeros."""
    cards = signature.cardinalities or (0,) * signature.size("field")
    mask = stream.mask
    parts = []
    for index, card in enumerate(cards):
        column = stream.values[:, index]
        if card:
            part = jax.nn.one_hot(column.astype(jnp.int32), card, dtype=context.dtype)
        else:
            part = column[:, None].astype(context.dtype)
        if mask is not None:
            part = jnp.where(mask[:, index, None], part, jnp.zeros((), part.dtype))
        parts.append(part)
    if mask is not None:
        parts.append(mask.astype(context.dtype))
    return jnp.concatenate(parts, axis=1)

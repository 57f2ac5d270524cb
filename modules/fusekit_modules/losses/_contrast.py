"""What contrasts of vectors within the batch share: fields, temperature, softmax over columns."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Coupling, LossSpec, Positive, Signatures
from fusekit.config.reference import Refs
from fusekit.context import Context
from fusekit.parameter import parameter
from fusekit.stream import Stream
from fusekit_modules.heads._readout import unit
from fusekit_modules.layers.expect import expect_count, expect_same, expect_vector
from fusekit_modules.losses._count import check_where, keep, wide


class ContrastSpec(LossSpec):
    """A contrast with the other rows of the batch. Rows that do not count are no negatives."""

    couples: ClassVar[Coupling] = "always"
    couples_because: ClassVar[str] = "the other rows of the batch are the negatives"
    fewest: ClassVar[int] = 2
    most: ClassVar[int | None] = None

    inputs: Refs = Field(description="vectors of one width")
    temperature: Positive = Field(0.07, description="what similarities are divided by, at first")
    learn: bool = Field(True, description="whether the temperature is a parameter")
    least: Positive = Field(0.01, description="the temperature is not taken below this")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        names = ["a", "b", "c"][: cls.fewest]
        return [{"inputs": names}, {"inputs": names, "learn": False}]

    def others(self) -> frozenset[str]:
        """Roles that the loss reads and that are not among `inputs`."""
        return frozenset({"where"})

    def vectors(self, inputs: Signatures) -> dict[str, Any]:
        """What stands under `inputs`, by role."""
        return {role: given for role, given in inputs.items() if role not in self.others()}

    def check(self, inputs: Signatures) -> None:
        """Vectors of one width. Raises `WiringError` otherwise."""
        vectors = self.vectors(inputs)
        expect_count(vectors, least=self.fewest, most=self.most)
        for role, given in vectors.items():
            expect_vector(given, role)
        expect_same(vectors, "embed", hint="projections to one width")
        check_where(inputs, None)


class Contrast(nnx.Module):
    """Owns the logarithm of the inverse temperature, if that is learned."""

    def __init__(self, spec: ContrastSpec, *, rngs: nnx.Rngs):
        self.first, self.bound = -math.log(spec.temperature), -math.log(spec.least)
        init = nnx.initializers.constant(self.first)
        self.scale = parameter(rngs, init, (), ()) if spec.learn else None

    def inverse(self, dtype: Any) -> Float[Array, ""]:
        """One over the temperature, in float32 or wider."""
        log_scale = self.first if self.scale is None else self.scale[...]
        dtype = jnp.promote_types(dtype, jnp.float32)
        return jnp.exp(at_most(jnp.asarray(log_scale, dtype), self.bound))


def units(streams: Mapping[str, Stream], valid: Bool[Array, "b"]) -> list[Float[Array, "b d"]]:
    """The inputs `[b, d]` in order, scaled to length one; zeros in rows that do not count."""
    return [unit(keep(wide(s.values), valid)) for role, s in streams.items() if role != "where"]


def computed(vectors: Float[Array, "b d"], context: Context) -> Float[Array, "b d"]:
    """Vectors as their products are to be taken: in bfloat16 where the model computes in it, else
    as they are. Sums of products, and what is made of them, are in float32 all the same.

    What a head has scaled to length one and rounded is the same again, but for its length, which is
    off by about 1e-4. So a contrast is of what the model gave, within another rounding of the same
    size at most.
    """
    return vectors.astype(jnp.bfloat16) if context.dtype == jnp.bfloat16 else vectors


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def at_most(x: Float[Array, ""], bound: float) -> Float[Array, ""]:
    """`min(x, bound)` whose gradient, beyond the bound, is kept where a step against it leads back.

    So a parameter that a step took too far does not stay there for good, as it does where it is not
    itself clamped after every step (Radford et al. 2021, section 2.5).
    """
    return jnp.minimum(x, bound)


def _at_most_forward(x: Array, bound: float) -> tuple[Array, Array]:
    return jnp.minimum(x, bound), x > bound


def _at_most_backward(bound: float, beyond: Array, grad: Array) -> tuple[Array]:
    return (jnp.where(beyond & (grad < 0), jnp.zeros_like(grad), grad),)


at_most.defvjp(_at_most_forward, _at_most_backward)


def spread(positive: Bool[Array, "b n"], dtype: Any) -> Float[Array, "b n"]:
    """Even shares of each row's positives, which sum to one; zeros in rows without any."""
    share = positive.astype(dtype)
    return share / jnp.maximum(jnp.sum(share, axis=1, keepdims=True), 1)


def surprise(
    logits: Float[Array, "b n"], target: Float[Array, "b n"], wanted: Bool[Array, "b n"]
) -> Float[Array, "b"]:
    """By row, the cross-entropy of a target and the softmax over the columns that are wanted; the
    target is zero in all others. Zero in rows that want none."""
    lowest = jnp.finfo(logits.dtype).min
    total = jax.nn.logsumexp(jnp.where(wanted, logits, lowest), axis=1)
    total = keep(total, jnp.any(wanted, axis=1))
    return jnp.sum(target * (total[:, None] - logits), axis=1)


def contrast(
    logits: Float[Array, "b b"], positive: Bool[Array, "b b"], valid: Bool[Array, "b"]
) -> Float[Array, "b"]:
    """By row, minus the mean over its positives of the log-softmax over the columns that count;
    zero in rows that do not."""
    wanted = valid[:, None] & valid[None]
    return surprise(logits, spread(positive & wanted, logits.dtype), wanted)


def directions(count: int, direction: str) -> Iterator[tuple[int, int]]:
    """Which input is told among the rows of which other one."""
    for first in range(count):
        for second in range(first + 1, count):
            yield first, second
            if direction == "both":
                yield second, first

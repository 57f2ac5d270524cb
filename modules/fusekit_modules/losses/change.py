"""Change of a state from step to step."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import LossSpec, LossValue, Signatures, register
from fusekit.config.reference import Refs
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.heads._tokens import data_tokens
from fusekit_modules.layers.expect import expect_count, expect_sequence
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide


@register
class ChangeSpec(LossSpec):
    """The mean over features of the squared difference of a step and the one before, averaged over
    all steps that all samples took (Swamy et al. 2023, MultiModN, its penalty on state changes).

    A step that is padded was not taken: the next is held against the last one before it. So
    `inputs: [state.steps]` of a `sequential` reads its states. Readout tokens are no steps.
    """

    type: Literal["change"] = "change"
    inputs: Refs = Field(description="sequences of states, each for itself")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"inputs": ["m0", "m1"], "weight": 0.01}]

    def check(self, inputs: Signatures) -> None:
        """Sequences of features. Raises `WiringError` otherwise."""
        given = {role: signature for role, signature in inputs.items() if role != "where"}
        expect_count(given)
        for role, signature in given.items():
            expect_sequence(signature, role)
        check_where(inputs, None)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Change":
        return Change()


class Change(nnx.Module):
    """Sequences `[b, t, d]`."""

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        valid = counted(streams, rows, tokens=None)
        parts = [_changes(_steps(s), valid) for role, s in streams.items() if role != "where"]
        return LossValue(*(sum(each[1:], each[0]) for each in zip(*parts, strict=True)))


def _steps(stream: Stream) -> Stream:
    return data_tokens(stream) if any(not span.readout for span in stream.spans) else stream


def _changes(stream: Stream, rows: Bool[Array, "b"]) -> LossValue:
    taken = counted({"steps": stream}, rows, tokens=stream.length)
    values = keep(wide(stream.values), taken)
    before = _latest(taken)
    last = jnp.take_along_axis(values, jnp.maximum(before, 0)[..., None], axis=1)
    each: Float[Array, "b t"] = jnp.mean(jnp.square(values - last), axis=-1)
    return summed(each, taken & (before >= 0))


def _latest(taken: Bool[Array, "b t"]) -> Array:
    """The latest step taken before each; -1 where there is none."""
    index = jnp.where(taken, jnp.arange(taken.shape[1]), -1)
    until = jax.lax.cummax(index, axis=1)
    return jnp.pad(until[:, :-1], ((0, 0), (1, 0)), constant_values=-1)

"""Cross-attention without weights, which drops what matters least."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import OperatorSpec, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Branch, Edit, Operator, Reads
from fusekit.stream import Signature, Stream, concatenate
from fusekit_modules.layers.expect import expect_count, expect_sequence
from fusekit_modules.layers.wide import wide


@register
class ParameterFreeAttentionSpec(OperatorSpec):
    """x + c D(f(n) f(y)^T) y beside the feed-forward, n its normalised input, f SiLU: ADEM-VL
    (Hao et al. 2024, algorithm 1).

    D drops, for each token, the share `drop` of y with the smallest scores: of k valid tokens the
    lowest floor(drop k), those that equal the next one excepted. Absent and padded y count in
    nothing. No weights: y comes in the stack's width.
    """

    uniform = True
    needs = frozenset({"residual"})
    type: Literal["parameter_free_attention"] = "parameter_free_attention"
    drop: float = Field(0.1, ge=0.0, lt=1.0, description="share of y that each token drops")
    scale: float = Field(0.1, description="c")

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` for y of another width."""
        expect_count(reads)
        for role, read in reads.items():
            expect_sequence(read, role)
            for number, stream in enumerate(streams):
                expect_sequence(stream, f"into {number}", field=("into",))
                if stream.width != read.width:
                    raise WiringError(
                        "without weights, what is read has the width of the stack",
                        found=f"{role} {read.width}, into {number} {stream.width}",
                        expected="one width: project it first",
                        field=("inputs", role),
                    )
        return streams

    def build_operator(
        self, streams: tuple[Signature, ...], reads: Signatures, *, rngs: Any
    ) -> "ParameterFreeAttention":
        return ParameterFreeAttention(self)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"drop": 0.5, "scale": 1.0}]


class ParameterFreeAttention(Operator):
    """The same at every place."""

    def __init__(self, spec: ParameterFreeAttentionSpec):
        self.drop, self.scale = spec.drop, spec.scale

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[Any],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Any]:
        y = concatenate([read.clean() for read in reads.values()])

        def read(x: Stream) -> Stream:
            values = y.values.astype(x.values.dtype)
            scores = wide(jax.nn.silu(x.values)) @ jnp.swapaxes(wide(jax.nn.silu(values)), 1, 2)
            scores = dropped(scores, y.valid(), self.drop)
            return x.with_(values=self.scale * (scores.astype(values.dtype) @ values))

        edit = Edit(residual={"mlp": Branch(read)})
        return tuple(edit for _ in streams), state


def dropped(
    scores: Float[Array, "b q k"], valid: Bool[Array, "b k"] | None, share: float
) -> Float[Array, "b q k"]:
    """The scores, zero for the `share` of keys that are lowest for a query, and where not valid."""
    size = scores.shape[-1]
    if valid is None:
        valid = jnp.ones((scores.shape[0], size), bool)
    lowest = jnp.asarray([min(int(share * n), size - 1) for n in range(size + 1)])
    at = lowest[jnp.sum(valid, axis=1)][:, None, None]
    ordered = jnp.sort(jnp.where(valid[:, None], scores, jnp.inf), axis=-1)
    least = jnp.take_along_axis(ordered, jnp.broadcast_to(at, (*scores.shape[:2], 1)), axis=-1)
    kept = valid[:, None] & (scores >= jax.lax.stop_gradient(least))
    return jnp.where(kept, scores, jnp.zeros((), scores.dtype))

"""Alignment of the tokens of two sequences."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool
from pydantic import Field

from fusekit.component import Count, LossSpec, LossValue, Positive, Signatures, register
from fusekit.config.reference import Refs
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.heads._readout import unit
from fusekit_modules.heads._tokens import data_tokens
from fusekit_modules.layers.expect import expect_count, expect_same, expect_sequence
from fusekit_modules.losses._count import check_where, counted, keep, summed, wide
from fusekit_modules.losses._distance import squared_distances
from fusekit_modules.losses._sinkhorn import sinkhorn


@register
class OptimalTransportSpec(LossSpec):
    """What it costs to carry the tokens of one sequence to those of another, sample by sample.

    Valid tokens have even shares. With costs C, the value is the least <P, C> + e KL(P, p q^T) over
    plans P (Cuturi 2013; Feydy et al. 2019), which is above the cost without entropy by
    e (log n + log m) at most. Iterations should be many times the largest cost over e. A row counts
    if both of its sequences have tokens; readout tokens are left out, unless there are no others.
    """

    type: Literal["optimal_transport"] = "optimal_transport"
    inputs: Refs = Field(description="two sequences of features of one width")
    cost: Literal["cosine", "squared"] = Field(
        "cosine", description="one minus the cosine, or the squared distance"
    )
    regularisation: Positive = Field(0.1, description="weight e of the entropy")
    iterations: Count = Field(100, description="updates of both potentials")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"inputs": ["a", "b"]}, {"inputs": ["a", "b"], "cost": "squared"}]

    def check(self, inputs: Signatures) -> None:
        """Two sequences of one width. Raises `WiringError` otherwise."""
        sequences = {role: given for role, given in inputs.items() if role != "where"}
        expect_count(sequences, least=2, most=2)
        for role, given in sequences.items():
            expect_sequence(given, role)
        expect_same(sequences, "embed", hint="projections to one width")
        check_where(inputs, None)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "OptimalTransport":
        return OptimalTransport(self)


class OptimalTransport(nnx.Module):
    """Sequences `[b, n, d]` and `[b, m, d]`."""

    def __init__(self, spec: OptimalTransportSpec):
        self.cost, self.iterations = spec.cost, spec.iterations
        self.regularisation = spec.regularisation

    def __call__(self, streams: dict[str, Stream], *, rows: Any, context: Context) -> LossValue:
        given = [_tokens(stream) for role, stream in streams.items() if role != "where"]
        masks = [_mask(stream) for stream in given]
        valid = counted(streams, rows, tokens=None)
        valid = valid & jnp.any(masks[0], axis=1) & jnp.any(masks[1], axis=1)
        masks = [mask | ~valid[:, None] for mask in masks]  # some tokens in every row
        a, b = (
            keep(wide(stream.values), mask & valid[:, None])
            for stream, mask in zip(given, masks, strict=True)
        )
        if self.cost == "cosine":
            costs = 1 - jnp.einsum("bnd,bmd->bnm", unit(a), unit(b), precision="highest")
        else:
            costs = squared_distances(a, b)
        settings = {"regularisation": self.regularisation, "iterations": self.iterations}
        return summed(sinkhorn(costs, *masks, **settings), valid)


def _tokens(stream: Stream) -> Stream:
    """Without the learned readout tokens, unless it holds no others."""
    return stream if all(span.readout for span in stream.spans) else data_tokens(stream)


def _mask(stream: Stream) -> Bool[Array, "b n"]:
    mask = stream.mask
    return jnp.ones(stream.values.shape[:2], bool) if mask is None else mask

"""A mixture of experts in place of a stack's feed-forward layers."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import Count, OperatorSpec, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Branch, Edit, LayerOutput, Operator, Reads
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._routing import Dispatch, ExpertMlps, Routing, auxiliary, route
from fusekit_modules.layers.expect import (
    all_labelled,
    expect_labels,
    expect_same,
    expect_sequence,
)


@register
class ExpertsSpec(OperatorSpec):
    """Every token goes to its `top` experts, none is dropped: sparse mixture (Shazeer 2017).

    Ports: `balance` (Fedus 2022) and `z` (Zoph 2022), one number over the batch, the same in every
    row, for losses to weigh. Absent and padded tokens are skipped: no load, no part in the losses.
    """

    uniform = True
    needs = frozenset({"replace"})
    replaces = frozenset({"mlp"})
    reads_inputs = False
    port_names = ("balance", "z")
    couples = "always"
    couples_because = "the ports balance and z are means over all tokens of the batch"

    type: Literal["experts"] = "experts"
    experts: Count = Field(8, description="how many feed-forward networks")
    top: Count = Field(2, description="how many of them each token uses")
    hidden: Width | None = Field(None, description="width within an expert; default four times")
    weights: Literal["normalised", "raw"] = Field(
        "normalised", description="whether the chosen experts' weights add up to one"
    )
    labels: tuple[str, ...] = Field((), description="tokens of which labels; default all")
    dispatch: Dispatch = Field("ragged", description="sorted by expert, or every expert on all")

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` for no sequences of one width, too few
        experts, or labels that no stream holds."""
        for number, stream in enumerate(streams):
            expect_sequence(stream, f"into {number}", field=("into",))
        expect_same({f"into {n}": s for n, s in enumerate(streams)}, "embed", field=("into",))
        expect_labels(self.labels, streams)
        if self.top > self.experts:
            message = "more experts are chosen than there are"
            raise WiringError(message, found=self.top, expected=self.experts, field=("top",))
        return streams

    def covers(self, stream: Signature, *, extra: bool) -> bool:
        return not self.labels or (not extra and all_labelled(stream, self.labels))

    def infer_ports(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> dict[str, Signature]:
        return {name: Signature(()) for name in self.port_names}

    def build_operator(
        self, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> "Balanced":
        return Experts(self, streams[0].width, rngs=rngs) if self.share else Balanced()

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> "Experts":
        return Experts(self, streams[0].width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"experts": 3, "top": 2, "hidden": 4}
        return [small, {**small, "dispatch": "dense", "weights": "raw", "share": True}]


class Balanced(Operator):
    """Keeps the auxiliary losses of a place, each `[b]`, as its state."""

    def begin(self, streams: tuple[Stream, ...], reads: Reads, *, context: Context) -> Any:
        zeros = jnp.zeros((streams[0].batch,), loss_dtype(streams[0]))
        return {"balance": zeros, "z": zeros}

    def ports(self, state: Any) -> dict[str, Stream]:
        return {name: Stream(values) for name, values in state.items()}


class Experts(Balanced):
    """One place's router and experts."""

    def __init__(self, spec: ExpertsSpec, width: int, *, rngs: nnx.Rngs):
        self.top, self.labels, self.normalise = spec.top, spec.labels, spec.weights == "normalised"
        init, shape = initializers.normal(0.02), (width, spec.experts)
        self.router = parameter(rngs, init, shape, ("embed", "expert"))
        hidden = spec.hidden or 4 * width
        self.mlps = ExpertMlps(spec.experts, width, hidden, dispatch=spec.dispatch, rngs=rngs)

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[nnx.Module],
        context: Context,
    ) -> tuple[tuple[Edit, ...], list[Routing]]:
        """The routings are noted in a list while the layers run, for `leave` to sum up."""
        found: list[Routing] = []
        branch = Branch(lambda stream: self.apply(stream, found, context), self.labels or None)
        return tuple(Edit(replace={"mlp": branch}) for _ in streams), found

    def apply(self, stream: Stream, found: list[Routing], context: Context) -> Stream:
        """`[b, t, d] -> [b, t, d]`, of the tokens to route alone; adds its routing to `found`."""
        valid = stream.valid()
        counts = jnp.ones(stream.values.shape[:2], bool) if valid is None else valid
        logits = stream.values.astype(loss_dtype(stream)) @ self.router[...].astype(
            loss_dtype(stream)
        )
        logits = logits.reshape(-1, logits.shape[-1])
        routing = route(logits, self.top, counts.reshape(-1), normalise=self.normalise)
        found.append(routing)
        expert = jnp.where(counts.reshape(-1, 1), routing.expert, self.mlps.experts)
        out = self.mlps(stream.values, expert, routing.weight, context=context)
        return stream.with_(values=out)

    def leave(
        self, outputs: tuple[LayerOutput, ...], reads: Reads, state: Any, *, context: Context
    ) -> tuple[tuple[Stream, ...], Any]:
        streams = tuple(output.stream for output in outputs)
        balance, z = auxiliary(state, self.top)
        rows = jnp.ones((streams[0].batch,), balance.dtype)
        return streams, {"balance": balance * rows, "z": z * rows}


def loss_dtype(stream: Stream) -> Any:
    return jnp.promote_types(stream.values.dtype, jnp.float32)

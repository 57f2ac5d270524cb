"""One feed-forward network per modality, inside a shared stack."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import OperatorSpec, Signatures, Width, register
from fusekit.context import Context
from fusekit.layered import Branch, Edit, Operator, Reads
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream, label_id
from fusekit_modules.layers.activation import gelu
from fusekit_modules.layers.choose import chosen_by_spans, put, take
from fusekit_modules.layers.expect import (
    all_labelled,
    expect_labels,
    expect_same,
    expect_sequence,
)


@register
class ModalityExpertsSpec(OperatorSpec):
    """Attention is shared, feed-forward is each modality's own: VLMo (Bao 2022, sec. 3.2).

    Tokens are routed by label. Labels that are not named keep the layer's own feed-forward. Absent
    and padded tokens are skipped.
    """

    uniform = True
    needs = frozenset({"replace"})
    replaces = frozenset({"mlp"})
    reads_inputs = False
    type: Literal["modality_experts"] = "modality_experts"
    labels: tuple[str, ...] = Field((), description="which labels; default all of the stream")
    hidden: Width | None = Field(None, description="width within an expert; default four times")

    def labels_of(self, stream: Signature) -> tuple[str, ...]:
        return self.labels or tuple(dict.fromkeys(span.label for span in stream.spans))

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` for no sequences of one width, or labels
        that no stream holds."""
        by_role = {f"into {number}": stream for number, stream in enumerate(streams)}
        for role, stream in by_role.items():
            expect_sequence(stream, role, field=("into",))
        expect_same(by_role, "embed", hint="stacks of one width", field=("into",))
        expect_labels(self.labels, streams)
        return streams

    def covers(self, stream: Signature, *, extra: bool) -> bool:
        return not extra and all_labelled(stream, self.labels_of(stream))

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> "ModalityExperts":
        return ModalityExperts(self, streams, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"hidden": 4}, {"hidden": 4, "labels": ["a"], "share": True}]


class Expert(nnx.Module):
    """d -> hidden -> d with GELU, without biases."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs):
        init = initializers.lecun_normal()
        self.up = parameter(rngs, init, (width, hidden), ("embed", "mlp"))
        self.down = parameter(rngs, init, (hidden, width), ("mlp", "embed"))

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = gelu(x @ self.up[...].astype(x.dtype))
        return hidden @ self.down[...].astype(x.dtype)


class ModalityExperts(Operator):
    """One place's experts, by label: as spans say where labels stand, tokens are cut out as slices,
    one product a label, and nothing is sorted or gathered."""

    def __init__(
        self, spec: ModalityExpertsSpec, streams: tuple[Signature, ...], *, rngs: nnx.Rngs
    ):
        width = streams[0].width
        self.labels = tuple(dict.fromkeys(label for s in streams for label in spec.labels_of(s)))
        hidden = spec.hidden or 4 * width
        self.experts = nnx.List([Expert(width, hidden, rngs=rngs) for _ in self.labels])

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[nnx.Module],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Any]:
        edit = Edit(replace={"mlp": Branch(self.apply, self.labels)})
        return tuple(edit for _ in streams), state

    def apply(self, stream: Stream) -> Stream:
        """`[b, t, d] -> [b, t, d]`: cut by spans, or by the labels of tokens where these vary."""
        if stream.label is not None:
            out = jnp.zeros_like(stream.values)
            for label, expert in zip(self.labels, self.experts, strict=True):
                mine = (stream.label == label_id(label))[..., None]
                out = jnp.where(mine, expert(stream.values), out)
            return stream.with_(values=out)
        pieces = []
        for label, expert in zip(self.labels, self.experts, strict=True):
            mine = chosen_by_spans(stream, (label,))
            if mine.any():
                pieces.append((mine, expert(take(stream.values, mine))))
        rest = ~chosen_by_spans(stream, self.labels)
        if rest.any():
            pieces.append((rest, jnp.zeros_like(take(stream.values, rest))))
        return stream.with_(values=put(pieces, stream.length))

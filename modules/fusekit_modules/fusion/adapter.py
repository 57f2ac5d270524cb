"""Bottleneck adapters inside the layers of a stack."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import OperatorSpec, Signatures, Width, register
from fusekit.context import Context
from fusekit.layered import Branch, Edit, Operator, Reads
from fusekit.parameter import parameter
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._labels import Sublayer, by_label, hook_names
from fusekit_modules.layers.activation import ActivationName, activation
from fusekit_modules.layers.expect import expect_labels, expect_sequence


@register
class AdapterSpec(OperatorSpec):
    """x + U f(D x + c) at sublayers: adapters (Houlsby et al. 2019); by label as in PILL.

    `after` a sublayer x is the running stream; `beside` it, x is the normalised input of the
    sublayer, and the update is added to the stream (parallel adapters, He et al. 2022, table 1).
    U starts at zero. With `labels` each has its own adapter and tokens of other labels have none.
    """

    uniform = True
    needs = frozenset({"then", "residual"})
    reads_inputs = False
    type: Literal["adapter"] = "adapter"
    hidden: Width = Field(16, description="width of the bottleneck")
    sublayers: tuple[Sublayer, ...] = Field(
        ("feed_forward",), min_length=1, description="at which sublayers"
    )
    act: Literal["after", "beside"] = Field("after", description="where at the sublayer")
    labels: tuple[str, ...] = Field((), description="labels with an adapter each; default one")
    activation: ActivationName = Field("gelu", description="f")

    def infer_edit(
        self, streams: tuple[Signature, ...], reads: Signatures
    ) -> tuple[Signature, ...]:
        """The streams as they are. Raises `WiringError` for labels that no stream holds."""
        for number, stream in enumerate(streams):
            expect_sequence(stream, f"into {number}", field=("into",))
        expect_labels(self.labels, streams)
        return streams

    def build_layer(
        self, index: int, streams: tuple[Signature, ...], reads: Signatures, *, rngs: nnx.Rngs
    ) -> Operator:
        return Adapters(self, streams, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        every = ["attention", "feed_forward"]
        return [{"hidden": 4}, {"hidden": 4, "sublayers": every, "act": "beside", "labels": ["a"]}]


class Adapter(nnx.Module):
    """`[b, t, d] -> [b, t, d]` through the bottleneck."""

    def __init__(self, width: int, hidden: int, name: ActivationName, *, rngs: nnx.Rngs):
        init, zeros = initializers.lecun_normal(), initializers.zeros
        self.activation: ActivationName = name
        self.down = parameter(rngs, init, (width, hidden), ("embed", "mlp"))
        self.bias = parameter(rngs, zeros, (hidden,), ("mlp",))
        self.up = parameter(rngs, zeros, (hidden, width), ("mlp", "embed"))

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = x @ self.down[...].astype(x.dtype) + self.bias[...].astype(x.dtype)
        return activation(self.activation)(hidden) @ self.up[...].astype(x.dtype)


class Adapters(Operator):
    """The adapters of one place, by stream, sublayer and label."""

    def __init__(self, spec: AdapterSpec, streams: tuple[Signature, ...], *, rngs: nnx.Rngs):
        self.after = spec.act == "after"
        self.names = hook_names(spec.sublayers)
        held = [{span.label for span in stream.spans} for stream in streams]
        self.labels = tuple(tuple(x for x in spec.labels if x in one) for one in held)
        self.all = not spec.labels

        def adapters(width: int, count: int) -> nnx.List:
            made = [Adapter(width, spec.hidden, spec.activation, rngs=rngs) for _ in range(count)]
            return nnx.List(made)

        self.adapters = nnx.List(
            nnx.List([adapters(stream.width, len(labels) or int(self.all)) for _ in self.names])
            for stream, labels in zip(streams, self.labels, strict=True)
        )

    def enter(
        self,
        streams: tuple[Stream, ...],
        reads: Reads,
        state: Any,
        *,
        layers: Sequence[nnx.Module],
        context: Context,
    ) -> tuple[tuple[Edit, ...], Any]:
        edits = []
        for labels, by_name in zip(self.labels, self.adapters, strict=True):
            pairs = zip(self.names, by_name, strict=True)
            branches = {name: self.branch(labels, tuple(made)) for name, made in pairs}
            branches = branches if labels or self.all else {}
            edits.append(Edit(then=branches) if self.after else Edit(residual=branches))
        return tuple(edits), state

    def branch(self, labels: tuple[str, ...], adapters: tuple[Adapter, ...]) -> Branch:
        """One adapter for all tokens, or one a label."""
        if self.all:
            return Branch(lambda stream: stream.with_(values=adapters[0](stream.values)))
        chosen = dict(zip(labels, adapters, strict=True))
        return Branch(lambda stream: stream.with_(values=by_label(stream, chosen)), labels)

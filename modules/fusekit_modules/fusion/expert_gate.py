"""A mixture of one expert a modality."""

from functools import partial
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from pydantic import Field

from fusekit.component import Outputs, Signatures, Width, register
from fusekit.context import Context
from fusekit.stream import Stream, vector
from fusekit_modules.fusion._present import emit, read, weighted
from fusekit_modules.fusion._vectors import WidthFusionSpec
from fusekit_modules.layers.dot_product import masked_softmax
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.mlp import MLP


@register
class ExpertGateSpec(WidthFusionSpec):
    """Each modality has an expert network; a softmax gate mixes what they say (Jacobs 1991, eq. 1).

    Each expert's own output gives its gate score, so a weight depends on the others only through
    the softmax, which runs over the present modalities (renormalise). Port `gate`: the weights.
    """

    type: Literal["expert_gate"] = "expert_gate"
    hidden: Width | None = Field(None, description="width within an expert; default twice `width`")

    def infer(self, inputs: Signatures) -> Outputs:
        optional = all(signature.optional for signature in inputs.values())
        out = super().infer(inputs)
        return {"out": out, "gate": vector(len(inputs), optional=optional)}  # pyright: ignore

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "ExpertGate":
        return ExpertGate(self, inputs, rngs=rngs)


class ExpertGate(nnx.Module):
    """y = sum_k g_k MLP_k(x_k), g = softmax_k(v_k MLP_k(x_k)): `[b, width]` and `[b, m]`.

    Scores start at zero, the gate thus at the mean, or the first expert to be right takes all.
    """

    def __init__(self, spec: ExpertGateSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        width = spec.out_width(inputs)
        hidden, widths = spec.hidden or 2 * width, [s.width for s in inputs.values()]
        self.experts = nnx.List([MLP(w, hidden, outputs=width, rngs=rngs) for w in widths])
        scores = partial(Linear, width, 1, axes=("embed", None), init=initializers.zeros)
        self.scores = nnx.List([scores(rngs=rngs) for _ in widths])

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        values, present = read(streams)
        each = [expert(x) for expert, x in zip(self.experts, values, strict=True)]
        scores = [score(h) for score, h in zip(self.scores, each, strict=True)]
        logits = jnp.concatenate(scores, axis=1)
        gate = masked_softmax(logits, present).astype(logits.dtype)
        out = weighted(gate, jnp.stack(each, axis=1))
        return {"out": emit(out, streams.values()), "gate": emit(gate, streams.values())}

"""One weight a modality."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx

from fusekit.component import Outputs, Signatures, register
from fusekit.context import Context
from fusekit.stream import Stream, vector
from fusekit_modules.fusion._present import emit, read, weighted
from fusekit_modules.fusion._vectors import WidthFusionSpec, projections
from fusekit_modules.layers.dot_product import masked_softmax
from fusekit_modules.layers.linear import Linear


@register
class AttentionWeightedSpec(WidthFusionSpec):
    """A weighted mean of projected vectors, weighed by all of them (AttentionFusionModule of
    TorchMultimodal).

    Port `weights`: one number a modality. The softmax runs over the present modalities
    (renormalise), and what is absent does not enter the scores.
    """

    type: Literal["attention_weighted"] = "attention_weighted"

    def infer(self, inputs: Signatures) -> Outputs:
        optional = all(signature.optional for signature in inputs.values())
        out = super().infer(inputs)
        return {"out": out, "weights": vector(len(inputs), optional=optional)}  # pyright: ignore

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "AttentionWeighted":
        return AttentionWeighted(self, inputs, rngs=rngs)


class AttentionWeighted(nnx.Module):
    """y = sum_k a_k W_k x_k, a = softmax(V [x_1; ...; x_M]): `[b, width]` and `[b, m]`."""

    def __init__(self, spec: AttentionWeightedSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.project = projections(inputs, spec.out_width(inputs), rngs=rngs)
        total = sum(signature.width for signature in inputs.values())
        self.score = Linear(total, len(inputs), axes=("embed", None), rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        values, present = read(streams)
        each = [project(x) for project, x in zip(self.project, values, strict=True)]
        scores = self.score(jnp.concatenate(values, axis=1))
        weights = masked_softmax(scores, present).astype(scores.dtype)
        out = weighted(weights, jnp.stack(each, axis=1))
        return {"out": emit(out, streams.values()), "weights": emit(weights, streams.values())}

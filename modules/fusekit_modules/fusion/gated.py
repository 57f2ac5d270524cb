"""Gated multimodal units."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Signatures, register
from fusekit.context import Context
from fusekit.stream import Stream
from fusekit_modules.fusion._present import emit, read, weighted
from fusekit_modules.fusion._vectors import WidthFusionSpec, projections
from fusekit_modules.layers.dot_product import masked_softmax
from fusekit_modules.layers.linear import Linear


@register
class GatedSpec(WidthFusionSpec):
    """Learned gates, unit by unit, over tanh features: GMU (Arevalo 2017, sec. 3.1).

    Every gate sees all inputs. `softmax` gates add up to one over the present modalities; for two
    that is the paper's bimodal unit. `sigmoid` gates are independent, as in its general form. An
    absent modality is left out of the sum and of what the gates see.
    """

    type: Literal["gated"] = "gated"
    gates: Literal["softmax", "sigmoid"] = Field("softmax", description="how gates are tied")

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Gated":
        return Gated(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"gates": "sigmoid", "width": 4}]


class Gated(nnx.Module):
    """y = sum_k z_k * tanh(W_k x_k), z from [x_1; ...; x_M]: `[b, width]`."""

    def __init__(self, spec: GatedSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        self.gates, width = spec.gates, spec.out_width(inputs)
        self.project = projections(inputs, width, rngs=rngs)
        total, axes = sum(s.width for s in inputs.values()), ("embed", "features", None)
        self.gate = Linear(total, (width, len(inputs)), axes=axes, rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, present = read(streams)
        each = [jnp.tanh(project(x)) for project, x in zip(self.project, values, strict=True)]
        logits, where = self.gate(jnp.concatenate(values, axis=1)), present[:, None, :]
        if self.gates == "softmax":
            gates = masked_softmax(logits, where)
        else:
            gates = jnp.where(where, jax.nn.sigmoid(logits), 0.0)
        context.collect("gate", gates)
        return emit(weighted(gates, jnp.stack(each, axis=1)), streams.values())

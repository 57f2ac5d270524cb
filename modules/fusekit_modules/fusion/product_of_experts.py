"""Product of Gaussian experts."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Outputs, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream, vector
from fusekit_modules.fusion._present import emit, read
from fusekit_modules.fusion._vectors import VectorFusionSpec
from fusekit_modules.layers.expect import expect_same


@register
class ProductOfExpertsSpec(VectorFusionSpec):
    """Multiplies Gaussian posteriors, a standard normal prior among them: MVAE (Wu 2018).

    Each input is [mean; log variance], and so is the output; ports `mean`, `log_variance` and
    `sample` (reparameterised in training, else the mean). Absent experts are skipped.
    """

    least = 1
    type: Literal["product_of_experts"] = "product_of_experts"
    prior: Literal["normal", "none"] = Field("normal", description="an expert always there")

    def out_width(self, inputs: Signatures) -> int:
        width = expect_same(inputs, "embed", hint="[mean; log variance] of one size")
        if width % 2:
            raise WiringError("[mean; log variance] has an even width", found=width)
        return width

    def infer(self, inputs: Signatures) -> Outputs:
        out = super().infer(inputs)
        half = vector(out.width // 2, optional=out.optional) if not isinstance(out, dict) else out
        return {"out": out, "mean": half, "log_variance": half, "sample": half}  # pyright: ignore

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "ProductOfExperts":
        return ProductOfExperts(self)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"prior": "none"}]


class ProductOfExperts(nnx.Module):
    """Precisions add; the mean is weighted by precision. `[b, 2 d] -> [b, 2 d]`, ports `[b, d]`."""

    def __init__(self, spec: ProductOfExpertsSpec):
        self.prior = spec.prior == "normal"

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        values, present = read(streams)
        dtype = jnp.promote_types(values[0].dtype, jnp.float32)
        mean, log_variance = jnp.split(jnp.stack(values, axis=1).astype(dtype), 2, axis=-1)
        # An expert that is always there; where there is no prior, only if nothing else is.
        always = (
            jnp.ones_like(present[:, :1]) if self.prior else ~jnp.any(present, 1, keepdims=True)
        )
        mean = jnp.concatenate([jnp.zeros_like(mean[:, :1]), mean], axis=1)
        where = jnp.concatenate([always, present], axis=1)[:, :, None]
        log_precision = jnp.concatenate([jnp.zeros_like(mean[:, :1]), -log_variance], axis=1)
        log_precision = jnp.where(where, log_precision, -jnp.inf)
        total = jax.nn.logsumexp(log_precision, axis=1)
        mean = jnp.sum(jnp.exp(log_precision - total[:, None]) * mean, axis=1)
        sample = mean
        if context.training:
            noise = jax.random.normal(context.rng("sample"), mean.shape, mean.dtype)
            sample = mean + jnp.exp(-0.5 * total) * noise
        out = {"out": jnp.concatenate([mean, -total], axis=1), "mean": mean, "log_variance": -total}
        out["sample"] = sample
        dtype, given = values[0].dtype, streams.values()
        return {name: emit(value.astype(dtype), given) for name, value in out.items()}

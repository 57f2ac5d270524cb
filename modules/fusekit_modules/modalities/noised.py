"""Contents on the way from noise to data."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from fusekit.component import Outputs, Positive, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream
from fusekit_modules.modalities._view import ViewSpec, by_position, view_key


@register
class NoisedSpec(ViewSpec):
    """A point of the straight path from Gaussian noise to the data (Lipman et al. 2023, eq. 20-22).

    At a time t of its own, a sample becomes (1 - (1 - sigma) t) noise + t data: noise at t = 0,
    data at t = 1. The ports are `time`, and `velocity` = data - (1 - sigma) noise, which a flow
    learns to predict. Evaluation draws fixed times and noise; prediction leaves the data as they
    are, at time 1.
    """

    type: Literal["noised"] = "noised"
    times: Literal["uniform", "logit_normal"] = Field(
        "uniform", description="how t is drawn; logit_normal as in Esser et al. 2024, section 3.1"
    )
    spread: Positive = Field(1.0, description="standard deviation of the logit of t")
    sigma: float = Field(0.0, ge=0, lt=1, description="noise that is left at t = 1")

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"of": "batch.x"}, {"of": "batch.x", "times": "logit_normal", "sigma": 0.1}]

    def infer(self, inputs: Signatures) -> Outputs:
        """The same, with `time` (a scalar) and `velocity`. Raises `WiringError` for codes."""
        given = inputs["of"]
        if given.dtype != "float" or given.kind == "table":
            raise WiringError(
                "noise is added to real numbers",
                found=given,
                expected="an image, a spectrogram, a series, features or a number",
                field=("of",),
            )
        return {
            "out": given,
            "time": Signature((), optional=given.optional),
            "velocity": given,
        }

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Noised":
        return Noised(self)


class Noised(nnx.Module):
    """Values `[b, ...]` -> values `[b, ...]`, `time [b]` and `velocity [b, ...]`."""

    def __init__(self, spec: NoisedSpec):
        self.times, self.spread, self.sigma = spec.times, spec.spread, spec.sigma

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        given = streams["of"].clean()
        data = given.values
        if context.mode == "predict":
            time = jnp.ones((given.batch,), data.dtype)
            noise = jnp.zeros_like(data)
        else:
            when, what = jax.random.split(view_key(context, "noised"))
            time = self._draw(when, given.batch).astype(data.dtype)
            noise = by_position(partial(jax.random.normal, what, dtype=data.dtype), data.shape)
        full = time.reshape(time.shape + (1,) * (data.ndim - 1))
        out = (1 - (1 - self.sigma) * full) * noise + full * data
        velocity = data - (1 - self.sigma) * noise
        return {
            "out": given.with_(values=out).clean(),
            "time": Stream(time, presence=given.presence).clean(),
            "velocity": given.with_(values=velocity).clean(),
        }

    def _draw(self, key: jax.Array, batch: int) -> jax.Array:
        if self.times == "uniform":
            return jax.random.uniform(key, (batch,))
        return jax.nn.sigmoid(self.spread * jax.random.normal(key, (batch,)))

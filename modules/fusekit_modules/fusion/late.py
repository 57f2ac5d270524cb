"""Late fusion."""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pydantic import Field

from fusekit.component import Positive, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._present import emit, masked_mean, read
from fusekit_modules.fusion._vectors import VectorFusionSpec
from fusekit_modules.layers.expect import expect_same

Combine = Literal["mean_logits", "mean_log_probabilities", "mean_probabilities", "product"]


@register
class LateSpec(VectorFusionSpec):
    """Combines what heads say, without parameters (Kittler et al. 1998).

    `mean_logits` serves regression too. `product` multiplies the experts' posteriors and divides
    by prior ** (experts - 1), as conditional independence has it. Absent experts do not vote: means
    and products run over the present ones. The answer's classes are called as those of the experts.
    """

    link = "inputs"
    type: Literal["late"] = "late"
    combine: Combine = Field("mean_logits", description="what is averaged or multiplied")
    prior: tuple[Positive, ...] = Field((), description="class frequencies; default all alike")

    def out_width(self, inputs: Signatures) -> int:
        width = expect_same(inputs, "embed", hint="the same classes")
        if self.prior and len(self.prior) != width:
            raise WiringError("one prior a class is due", expected=width, field=("prior",))
        return width

    def infer(self, inputs: Signatures) -> Signature:
        """One vector. Raises `WiringError` for classes that differ, in number, name or order."""
        given = super().infer(inputs)
        assert isinstance(given, Signature)
        return given.with_(names=_names(inputs))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Late":
        return Late(self)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"combine": combine} for combine in get_args(Combine)]


def _names(inputs: Signatures) -> tuple[str, ...]:
    """The names of the classes, which all experts that name them name alike."""
    named = {role: signature.names for role, signature in inputs.items() if signature.names}
    first = next(iter(named), None)
    if first is None:
        return ()
    for role, names in named.items():
        if names != named[first]:
            raise WiringError(
                "the inputs name their classes differently",
                found=f"{role}: {', '.join(names)}",
                expected=f"as {first} has them: {', '.join(named[first])}",
                field=("inputs", role),
            )
    return named[first]


class Late(nnx.Module):
    """Logits `[b, c]` of each expert -> logits `[b, c]`; normalised log-probabilities unless
    `mean_logits`."""

    def __init__(self, spec: LateSpec):
        self.combine, self.prior = spec.combine, spec.prior

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, present = read(streams)
        logits = jnp.stack(values, axis=1)
        if self.combine == "mean_logits":
            return emit(masked_mean(logits, present), streams.values())
        wide = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        count = jnp.sum(present, axis=1).astype(wide.dtype)[:, None]
        if self.combine == "mean_probabilities":
            votes = jnp.where(present[..., None], wide, -jnp.inf)
            some = jnp.any(present, axis=1)[:, None, None]
            out = jax.nn.logsumexp(jnp.where(some, votes, 0.0), axis=1) - jnp.log(count.clip(1))
        else:
            out = masked_mean(wide, present)
            if self.combine == "product":
                prior = jnp.asarray(np.log(self.prior or (1.0,)), wide.dtype)[None]
                out = out * count - prior * (count - 1)
            out = jax.nn.log_softmax(out)
        return emit(out.astype(logits.dtype), streams.values())

"""Clusters of tokens, each as its mean."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Count, Positive, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.layered import Reads
from fusekit.stream import Signature, Stream
from fusekit_modules.fusion._compress import (
    CompressorSpec,
    data,
    data_bounds,
    fitted,
    joined,
    joined_signature,
    made,
)
from fusekit_modules.fusion._insert import Inserting
from fusekit_modules.fusion.token_merge import taken
from fusekit_modules.layers.wide import wide


@register
class ClusterTokensSpec(CompressorSpec):
    """k-means over the tokens of a sample; a cluster's token is the mean of its members, which
    Omri et al. (2025) find better than selection and merging inside the encoder.

    The first centre is the token farthest from the mean of all, the next the token farthest from
    the centres so far (Gonzalez 1985): no chance, and outliers keep a token. Who belongs where has
    no gradient, the means have. With `temperature` membership is softmax(-distance^2 / temperature)
    and everything has one but the choice of the first centres. Clusters stand in the order of the
    mean place of their members. Padding belongs nowhere; with fewer distinct tokens than clusters
    the rest is padding. Readout tokens are left out. An absent sequence is absent.
    """

    type: Literal["cluster_tokens"] = "cluster_tokens"
    tokens: Count = Field(16, description="how many clusters")
    steps: Count = Field(5, description="how often members and centres are found anew")
    temperature: Positive | None = Field(None, description="soft membership; default the nearest")

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        """Raises `WiringError` for more clusters than tokens."""
        given = joined_signature(reads)
        start, stop = data_bounds(given.spans)
        if self.tokens > stop - start:
            message, due = "there are fewer tokens than clusters", f"at most {stop - start}"
            raise WiringError(message, found=self.tokens, expected=due, field=("tokens",))
        return made(given, self.tokens, width).with_(padded=True)

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "ClusterTokens":
        return ClusterTokens(self, reads, width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"tokens": 3, "steps": 2}, {"tokens": 2, "temperature": 2.0}]


class ClusterTokens(Inserting):
    """`[b, t, d] -> [b, tokens, width]`."""

    def __init__(self, spec: ClusterTokensSpec, reads: Signatures, width: int, *, rngs: nnx.Rngs):
        super().__init__(spec)
        self.steps, self.temperature = spec.steps, spec.temperature
        self.spans = spec.infer_tokens(reads, width).spans
        self.proj = fitted(joined_signature(reads).width, width, rngs=rngs)

    def __call__(self, streams: Reads, *, context: Context) -> Stream:
        x = data(joined(streams))
        valid = jnp.ones((x.batch, x.length), bool) if x.mask is None else x.mask
        high = wide(x.values)
        centres, filled = farthest(high, valid, self.spans[0].size)
        share = self.shares(high, valid, centres, filled)
        for _ in range(self.steps - 1):
            centres = means(share, high)[0]
            share = self.shares(high, valid, centres, filled)
        values, mass = means(share, high)
        place = jnp.broadcast_to(x.positions(), valid.shape).astype(high.dtype)
        middle = means(share, place[..., None])[0][..., 0]
        middle = jax.lax.stop_gradient(jnp.where(mass > 0, middle, jnp.inf))
        order = jnp.argsort(middle, axis=1, stable=True)
        values, mass, middle = taken((values, mass, middle), order)
        place = jnp.where(mass > 0, jnp.round(middle), 0).astype(jnp.int32)
        values = values.astype(x.values.dtype)
        out = Stream(values, mass > 0, x.presence, position=place, spans=self.spans).clean()
        return out if self.proj is None else out.with_(values=self.proj(out.values)).clean()

    def shares(
        self, values: Array, valid: Array, centres: Array, filled: Array
    ) -> Float[Array, "b k t"]:
        """How much of each token each cluster has."""
        far = jnp.where(filled[..., None], squares(centres, values), jnp.inf)
        if self.temperature is None:
            share = jax.nn.one_hot(jnp.argmin(far, 1), far.shape[1], axis=1, dtype=values.dtype)
        else:
            low = jnp.finfo(values.dtype).min
            some = jnp.where(filled[..., None], -far / self.temperature, low)
            share = jnp.where(filled[..., None], jax.nn.softmax(some, axis=1), 0)
        return jnp.where(valid[:, None], share, jnp.zeros((), share.dtype))


def squares(centres: Float[Array, "b k d"], values: Float[Array, "b t d"]) -> Array:
    """Squared distances `[b, k, t]`."""
    gap = centres[:, :, None] - values[:, None]
    return jnp.sum(gap * gap, axis=-1)


def means(
    share: Float[Array, "b k t"], values: Float[Array, "b t d"]
) -> tuple[Float[Array, "b k d"], Float[Array, "b k"]]:
    """The mean of each cluster, zeros where it has nothing; and how much it has."""
    mass, highest = jnp.sum(share, axis=2), jax.lax.Precision.HIGHEST
    total = jnp.einsum("bkt,btd->bkd", share, values, precision=highest)
    return total / jnp.where(mass > 0, mass, 1)[..., None], mass


def farthest(
    values: Float[Array, "b t d"], valid: Bool[Array, "b t"], count: int
) -> tuple[Float[Array, "b k d"], Bool[Array, "b k"]]:
    """The first centres, and which of them are there: not those that repeat another."""
    where = valid.astype(values.dtype)[:, None]
    centre = means(where, values)[0]
    gap = jnp.where(valid, squares(centre, values)[:, 0], -1)
    centres, filled = [], []
    for number in range(count):
        index = jnp.argmax(gap, axis=1)[:, None]
        best = jnp.max(gap, axis=1)
        filled.append(best >= 0 if number == 0 else best > 0)
        (chosen,) = taken((values,), index)
        centres.append(chosen)
        near = jnp.where(valid, squares(chosen, values)[:, 0], -1)
        gap = near if number == 0 else jnp.minimum(gap, near)
    return jnp.concatenate(centres, axis=1), jnp.stack(filled, axis=1)

"""Similar tokens become one."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from fusekit.component import Count, Signatures, register
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
from fusekit_modules.layers.wide import wide


@register
class TokenMergeSpec(CompressorSpec):
    """Bipartite soft matching (ToMe, Bolya et al. 2023, section 3): tokens alternate between two
    sets, and the `merge` tokens of the second that are most like one of the first (by the cosine of
    their features) join it. Repeated, means are weighted by how many tokens each already is.

    Which tokens merge has no gradient, their means have. The others keep their order and their
    position. Padding merges with nothing and goes first to the end; a merge that finds no valid
    token drops padding. Readout tokens are left out. An absent sequence is absent.
    """

    type: Literal["token_merge"] = "token_merge"
    merge: Count = Field(8, description="how many tokens vanish each time")
    times: Count = Field(1, description="how often")

    def infer_tokens(self, reads: Signatures, width: int) -> Signature:
        """Raises `WiringError` if more than half of the tokens would vanish at a time."""
        given = joined_signature(reads)
        start, stop = data_bounds(given.spans)
        length = stop - start - self.merge * self.times
        if length < self.merge:
            message, due = "at most half of the tokens vanish at a time", "a smaller number"
            found = f"{self.times} times {self.merge} of {stop - start}"
            raise WiringError(message, found=found, expected=due, field=("merge",))
        return made(given, length, width)

    def build_tokens(self, reads: Signatures, width: int, *, rngs: nnx.Rngs) -> "TokenMerge":
        return TokenMerge(self, reads, width, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"merge": 2}, {"merge": 1, "times": 2}]


class TokenMerge(Inserting):
    """`[b, t, d] -> [b, t - times merge, width]`."""

    def __init__(self, spec: TokenMergeSpec, reads: Signatures, width: int, *, rngs: nnx.Rngs):
        super().__init__(spec)
        self.merge, self.times = spec.merge, spec.times
        self.spans = spec.infer_tokens(reads, width).spans
        self.proj = fitted(joined_signature(reads).width, width, rngs=rngs)

    def __call__(self, streams: Reads, *, context: Context) -> Stream:
        x = data(joined(streams))
        valid = jnp.ones((x.batch, x.length), bool) if x.mask is None else x.mask
        place = jnp.broadcast_to(x.positions(), valid.shape)
        front = jnp.argsort(~valid, axis=1, stable=True)
        high = wide(x.values)
        values, sizes, place = taken((high, valid.astype(high.dtype), place), front)
        for _ in range(self.times):
            values, sizes, place = merged(values, sizes, place, self.merge)
        values, mask = values.astype(x.values.dtype), None if x.mask is None else sizes > 0
        out = Stream(values, mask, x.presence, position=place, spans=self.spans).clean()
        return out if self.proj is None else out.with_(values=self.proj(out.values)).clean()


def taken(arrays: tuple[Array, ...], index: Int[Array, "b n"]) -> tuple[Array, ...]:
    """The tokens of these numbers, of `[b, t]` or `[b, t, d]`."""
    return tuple(
        jnp.take_along_axis(a, index.reshape(*index.shape, *(1,) * (a.ndim - 2)), axis=1)
        for a in arrays
    )


def merged(
    values: Float[Array, "b t d"], sizes: Float[Array, "b t"], place: Int[Array, "b t"], merge: int
) -> tuple[Array, ...]:
    """One round. A size of 0 is padding, which stands at the end."""
    host, guest = sizes[:, ::2], sizes[:, 1::2]
    best, score = partners(values, sizes > 0)
    order = jnp.argsort(-score, axis=1, stable=True)
    joins = jnp.argsort(order, axis=1, stable=True) < merge
    joining = jax.nn.one_hot(best, host.shape[1], dtype=values.dtype, axis=1)
    joining = joining * (joins * guest)[:, None]
    total = host + jnp.sum(joining, axis=2)
    highest = jax.lax.Precision.HIGHEST
    sums = jnp.einsum("bhg,bgd->bhd", joining, values[:, 1::2], precision=highest)
    mean = (values[:, ::2] * host[..., None] + sums) / jnp.maximum(total, 1)[..., None]
    values = values.at[:, ::2].set(mean)
    sizes = sizes.at[:, ::2].set(total)
    goes = jnp.zeros(sizes.shape, bool).at[:, 1::2].set(joins)
    kept = jnp.argsort(goes, axis=1, stable=True)[:, : sizes.shape[1] - merge]
    return taken((values, sizes, place), kept)


def partners(
    values: Float[Array, "b t d"], valid: Bool[Array, "b t"]
) -> tuple[Int[Array, "b g"], Float[Array, "b g"]]:
    """For each token of the second set, which of the first is most like it, and how much; least
    for padding."""
    high = jax.lax.stop_gradient(values)
    norm = jnp.sqrt(jnp.sum(high * high, -1, keepdims=True))
    unit = high / jnp.where(norm > 0, norm, 1)
    highest = jax.lax.Precision.HIGHEST
    like = jnp.einsum("bhd,bgd->bgh", unit[:, ::2], unit[:, 1::2], precision=highest)
    both = valid[:, 1::2, None] & valid[:, None, ::2]
    like = jnp.where(both, like, -jnp.inf)
    return jnp.argmax(like, -1), jnp.max(like, -1)

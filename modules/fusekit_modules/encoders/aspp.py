"""Atrous spatial pyramid pooling."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Count, Coupling, EncoderSpec, Signatures, Width, register
from fusekit.context import Context
from fusekit.stream import Signature, Stream
from fusekit_modules.encoders._atrous import AtrousConv
from fusekit_modules.encoders._maps import check_groups, check_map, scaled
from fusekit_modules.encoders._norms import made_norm, normed
from fusekit_modules.layers.entry import only


@register
class AsppSpec(EncoderSpec):
    """A map at several scales at once, of the same size: DeepLab v3 (Chen et al. 2017, sec. 3.3).

    Side by side: a 1 x 1 convolution, a 3 x 3 one of each rate, and the mean over the whole map;
    all of them, each with a norm and a rectifier, are joined by a 1 x 1 convolution.
    """

    type: Literal["aspp"] = "aspp"
    couples: ClassVar[Coupling] = "train"
    couples_because: ClassVar[str] = "batch norm takes its statistics over the batch"

    width: Width = Field(256, description="channels of each branch, and of the result")
    rates: tuple[Count, ...] = Field((6, 12, 18), max_length=16, description="of the 3 x 3 kernels")
    norm: Literal["batch", "group"] = Field(
        "batch", description="batch norm couples samples, group norm not"
    )
    groups: Count = Field(8, description="groups of channels, with group norm")

    def coupling(self) -> Coupling:
        return self.couples if self.norm == "batch" else "none"

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"width": 4, "rates": (1, 2)}
        return [small, {**small, "norm": "group", "groups": 2}]

    def infer(self, inputs: Signatures) -> Signature:
        given = check_map(only(inputs))
        if self.norm == "group":
            check_groups(self.groups, (self.width,))
        return scaled(given, 1, self.width)

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Aspp":
        return Aspp(self, only(inputs), rngs=rngs)


class Aspp(nnx.Module):
    """`[b, h, w, c] -> [b, h, w, width]`."""

    def __init__(self, spec: AsppSpec, given: Signature, *, rngs: nnx.Rngs):
        channels, self.spans = given.width if len(given.sizes) > 2 else 1, given.spans
        self.channels = len(given.sizes) > 2
        rates = (1, *spec.rates)
        self.branches = nnx.List(
            [Branch(spec, channels, 3 if k else 1, rate, rngs) for k, rate in enumerate(rates)]
        )
        self.whole = Branch(spec, channels, 1, 1, rngs)
        self.join = Branch(spec, (len(rates) + 1) * spec.width, 1, 1, rngs)

    def __call__(self, streams: Mapping[str, Stream], *, context: Context) -> Stream:
        stream = only(streams).clean()
        x = stream.values if self.channels else jnp.expand_dims(stream.values, -1)
        mask, valid = stream.mask, stream.presence if stream.mask is None else stream.valid()
        each = [branch(x, mask, valid, context) for branch in self.branches]
        mean = masked_mean_of_map(x, mask)
        pooled = self.whole(mean, None, stream.presence, context)
        each.append(jnp.broadcast_to(pooled, each[0].shape))
        out = self.join(jnp.concatenate(each, axis=-1), mask, valid, context)
        return Stream(out, mask, stream.presence, spans=self.spans).clean()


class Branch(nnx.Module):
    """relu(norm(conv(x))). What is padded counts in no statistic."""

    def __init__(self, spec: AsppSpec, inputs: int, kernel: int, rate: int, rngs: nnx.Rngs):
        shape, width = (kernel, kernel), spec.width
        self.conv = AtrousConv(inputs, width, kernel=shape, rate=rate, bias=False, rngs=rngs)
        self.norm = made_norm(spec.norm, width, spec.groups, rngs=rngs)

    def __call__(
        self, x: Array, mask: Array | None, valid: Array | None, context: Context
    ) -> Array:
        y = jax.nn.relu(normed(self.norm, self.conv(x), mask, valid, context=context))
        return y if mask is None else jnp.where(mask[:, :, None, None], y, 0)


def masked_mean_of_map(
    x: Float[Array, "b h w c"], mask: Bool[Array, "b h"] | None
) -> Float[Array, "b 1 1 c"]:
    """The mean over valid rows and all columns; zeros where no row is valid. `x` is zero where it
    is padded."""
    if mask is None:
        return jnp.mean(x, axis=(1, 2), keepdims=True)
    count = jnp.maximum(jnp.sum(mask, axis=1), 1).astype(x.dtype) * x.shape[2]
    return jnp.sum(x, axis=(1, 2), keepdims=True) / count[:, None, None, None]

"""Several scales of aligned sequences."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array
from pydantic import Field

from fusekit.component import Count, FusionSpec, Outputs, Signatures, Width, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream
from fusekit_modules.encoders._atrous import AtrousConv
from fusekit_modules.fusion._aligned import expect_aligned, read_aligned
from fusekit_modules.fusion._vectors import projections
from fusekit_modules.fusion.ssma import inside
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.dot_product import masked_softmax
from fusekit_modules.layers.linear import Linear
from fusekit_modules.layers.mlp import MLP
from fusekit_modules.layers.norm import LayerNorm


@register
class PyramidSpec(FusionSpec):
    """Windows that widen level by level, over segments of aligned modalities, and a choice of
    level and modality at each segment: in the manner of MM-Pyramid (Yu et al. 2022).

    At level l a segment reads all modalities within `window * 2^l` segments of it, then a dilated
    convolution, of dilation 2^l, is added. Attention chooses among the levels of a modality, and a
    gate, unit by unit, among the modalities. What is absent or padded is neither read nor chosen.
    """

    type: Literal["pyramid"] = "pyramid"
    width: Width | None = Field(None, description="of all levels; default the least input width")
    levels: int = Field(3, ge=1, le=16, description="scales")
    window: Count = Field(1, description="segments to either side, at level 0")
    heads: Count = Field(4, description="attention heads; they divide the width")

    def out_width(self, inputs: Signatures) -> int:
        return self.width or min(signature.width for signature in inputs.values())

    def infer(self, inputs: Signatures) -> Outputs:
        """As the first input, of `width`. Raises `WiringError` for lengths that differ."""
        out, width = expect_aligned(inputs), self.out_width(inputs)
        if width % self.heads:
            raise WiringError("heads divide the width", found=self.heads, expected=f"of {width}")
        return out.with_(sizes=(out.sizes[0], ("embed", width)))

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Pyramid":
        return Pyramid(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"levels": 2, "heads": 2}]


class Pyramid(nnx.Module):
    """`[b, t, d_k]` each -> `[b, t, width]`."""

    def __init__(self, spec: PyramidSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        width = spec.out_width(inputs)
        self.project = projections(inputs, width, rngs=rngs)
        self.levels = nnx.List(
            [
                nnx.List([Unit(spec, width, level, rngs=rngs) for _ in inputs])
                for level in range(spec.levels)
            ]
        )
        options: dict[str, Any] = {"activation": "tanh", "last_bias": False}
        self.choose = MLP(width, width, outputs=1, **options, rngs=rngs)
        self.gate = Linear(width, width, axes=("embed", "features"), bias=False, rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> Stream:
        values, valid, frame = read_aligned(streams)
        each = [
            frame.with_(values=inside(project(x), valid[..., k]), mask=valid[..., k], presence=None)
            for k, (project, x) in enumerate(zip(self.project, values, strict=True))
        ]
        found = []
        for units in self.levels:
            each = [unit(k, each, context=context) for k, unit in enumerate(units)]
            found.append(jnp.stack([stream.values for stream in each], axis=2))
        scales = jnp.stack(found, axis=3)  # [b, t, modality, level, width]
        weights = jax.nn.softmax(self.choose(scales)[..., 0], axis=-1)
        context.collect("levels", weights)
        chosen = jnp.einsum("btml,btmld->btdm", weights, scales)
        logits = jnp.swapaxes(self.gate(jnp.swapaxes(chosen, 2, 3)), 2, 3)
        where = jnp.broadcast_to(valid[:, :, None], logits.shape)
        gates = masked_softmax(logits, where).astype(chosen.dtype)
        return frame.with_(values=jnp.sum(gates * chosen, axis=3)).clean()


class Unit(nnx.Module):
    """One level of one modality."""

    def __init__(self, spec: PyramidSpec, width: int, level: int, *, rngs: nnx.Rngs):
        self.reach = spec.window * 2**level
        self.norm = LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, spec.heads, rngs=rngs)
        self.conv = AtrousConv(width, width, kernel=(3,), rate=2**level, rngs=rngs)

    def __call__(self, own: int, streams: list[Stream], *, context: Context) -> Stream:
        x = streams[own]
        normal = [s.with_(values=self.norm(s.values)) for s in streams]
        keys = [self.attention.keys_values(stream) for stream in normal]
        at, mask = np.arange(x.length), x.mask
        near = np.abs(at[:, None] - at[None]) <= self.reach
        window = jnp.asarray(np.tile(near, (1, len(streams))))
        query: Array = self.attention.queries(normal[own])
        read = self.attention.read(query, keys, masks=[window], context=context)
        y = inside(x.values + read, mask)
        return x.with_(values=inside(y + jax.nn.relu(self.conv(y)), mask))

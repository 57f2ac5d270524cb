"""Fusion of capsules."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn import initializers
from jaxtyping import Array, Bool, Float
from pydantic import Field

from fusekit.component import Count, Outputs, Signatures, register
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.parameter import parameter
from fusekit.stream import Span, Stream, any_present, vector
from fusekit_modules.fusion._present import emit, masked_mean, read
from fusekit_modules.fusion._vectors import WidthFusionSpec
from fusekit_modules.layers.attention import Attention
from fusekit_modules.layers.linear import Linear


@register
class CapsulesSpec(WidthFusionSpec):
    """Capsules of every modality, routed to joint ones, then mapped to a vector (after Duarte et
    al. 2021).

    A modality gives `capsules` poses, each times its activation, a sigmoid. `self_attention`: all
    poses read one another; each result times its new activation is averaged over the modalities,
    slot by slot. `dynamic`: routing by agreement (Sabour et al. 2017, procedure 1) from squashed
    poses. Port `activations`: of every routed capsule (self-attention; 0 where absent), or the
    lengths of the joint ones. An absent modality has no capsules.
    """

    type: Literal["capsules"] = "capsules"
    capsules: Count = Field(16, description="of each modality, and joint ones")
    size: Count = Field(16, description="of a pose")
    routing: Literal["self_attention", "dynamic"] = Field("self_attention", description="which")
    heads: Count = Field(4, description="attention heads; they divide the size")
    iterations: Count = Field(3, description="of routing by agreement")

    def infer(self, inputs: Signatures) -> Outputs:
        """A vector and activations. Raises `WiringError`."""
        out = super().infer(inputs)
        if self.routing == "self_attention" and self.size % self.heads:
            raise WiringError("heads divide the size", found=self.heads, expected=f"of {self.size}")
        count = self.capsules * (len(inputs) if self.routing == "self_attention" else 1)
        optional = all(signature.optional for signature in inputs.values())
        return {"out": out, "activations": vector(count, optional=optional)}  # pyright: ignore[reportReturnType]

    def build(self, inputs: Signatures, *, rngs: nnx.Rngs) -> "Capsules":
        return Capsules(self, inputs, rngs=rngs)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        small = {"capsules": 3, "size": 4, "heads": 2}
        return [small, {**small, "routing": "dynamic", "width": 4}]


class Capsules(nnx.Module):
    """`[b, d_1], [b, d_2], ... -> [b, width]`."""

    def __init__(self, spec: CapsulesSpec, inputs: Signatures, *, rngs: nnx.Rngs):
        shape, axes = (spec.capsules, spec.size), ("embed", None, "features")
        widths = [signature.width for signature in inputs.values()]
        self.poses = nnx.List([Linear(w, shape, axes=axes, rngs=rngs) for w in widths])
        self.active = nnx.List(
            [Linear(w, spec.capsules, axes=("embed", None), rngs=rngs) for w in widths]
        )
        routing = SelfAttention if spec.routing == "self_attention" else Agreement
        self.routing = routing(spec, len(inputs), rngs=rngs)
        width, axes = spec.out_width(inputs), (None, "features", "embed")
        self.out = Linear(shape, width, axes=axes, rngs=rngs)

    def __call__(self, streams: dict[str, Stream], *, context: Context) -> dict[str, Stream]:
        values, present = read(streams)
        each = [
            pose(x) * jax.nn.sigmoid(active(x))[..., None]
            for x, pose, active in zip(values, self.poses, self.active, strict=True)
        ]
        some = any_present(streams.values())
        joint, activations = self.routing(jnp.stack(each, axis=1), present, some, context=context)
        given = {"out": self.out(joint), "activations": activations}
        return {name: emit(value, streams.values()) for name, value in given.items()}


class SelfAttention(nnx.Module):
    """`[b, m, c, d] -> [b, c, d]` and the activations `[b, m c]`."""

    def __init__(self, spec: CapsulesSpec, count: int, *, rngs: nnx.Rngs):
        self.attention = Attention(spec.size, spec.heads, rngs=rngs)
        self.active = Linear(spec.size, 1, axes=("embed", None), rngs=rngs)

    def __call__(
        self, poses: Array, present: Bool[Array, "b m"], some: Any, *, context: Context
    ) -> tuple[Float[Array, "b c d"], Float[Array, "b n"]]:
        batch, count, capsules, size = poses.shape
        tokens = poses.reshape(batch, count * capsules, size)
        mask = jnp.repeat(present, capsules, axis=1)
        span = (Span("capsules", count * capsules),)
        routed = self.attention(Stream(tokens, mask, some, spans=span), context=context)
        active = jnp.where(mask, jax.nn.sigmoid(self.active(routed)[..., 0]), 0.0)
        return masked_mean((routed * active[..., None]).reshape(poses.shape), present), active


class Agreement(nnx.Module):
    """`[b, m, c, d] -> [b, c, d]` and their lengths `[b, c]`."""

    def __init__(self, spec: CapsulesSpec, count: int, *, rngs: nnx.Rngs):
        self.iterations = spec.iterations
        shape = (count, spec.capsules, spec.capsules, spec.size, spec.size)
        init = initializers.lecun_normal(batch_axis=(0, 1, 2))
        self.votes = parameter(rngs, init, shape, (None, None, None, "embed", "features"))

    def __call__(
        self, poses: Array, present: Bool[Array, "b m"], some: Any, *, context: Context
    ) -> tuple[Float[Array, "b c d"], Float[Array, "b c"]]:
        votes = self.votes[...].astype(poses.dtype)
        votes = jnp.einsum("bmcd,mcjde->bmcje", squash(poses), votes)
        votes = jnp.where(present[:, :, None, None, None], votes, 0.0)
        logits = jnp.zeros(votes.shape[:-1], votes.dtype)
        joint = jnp.zeros_like(votes[:, 0, 0])
        for _ in range(self.iterations):
            coupling = jax.nn.softmax(logits, axis=-1)
            joint = squash(jnp.einsum("bmcj,bmcje->bje", coupling, votes))
            logits = logits + jnp.einsum("bmcje,bje->bmcj", votes, joint)
        return joint, jnp.sqrt(jnp.sum(jnp.square(joint), axis=-1) + 1e-12)


def squash(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """|x|^2 / (1 + |x|^2) x / |x|: the direction kept, the length below one (eq. 1)."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jnp.sqrt(square + 1e-12) / (1 + square)

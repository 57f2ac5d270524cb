"""The feed-forward sublayer."""

from collections.abc import Mapping

from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from fusekit_modules.layers.activation import ActivationName, activation
from fusekit_modules.layers.linear import Deltas, Linear


class MLP(nnx.Module):
    """`down(activation(up(x)))` (Vaswani et al. 2017, equation 2).

    For `remat` it names `mlp`: the hidden units before their activation.

    Args:
      width: size of the last axis coming in.
      hidden: size in between.
      outputs: size going out; default `width`.
      last_bias: whether the second map has a bias; scores for a softmax need none.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        outputs: int | None = None,
        activation: ActivationName = "gelu",
        last_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.activation: ActivationName = activation
        self.up = Linear(width, hidden, axes=("embed", "mlp"), rngs=rngs)
        outward = ("mlp", "embed")
        self.down = Linear(hidden, outputs or width, axes=outward, bias=last_bias, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b *n d"], weights: Mapping[str, Deltas] | None = None
    ) -> Float[Array, "b *n o"]:
        """`weights` holds deltas of `up` and `down`."""
        weights = weights or {}
        hidden = checkpoint_name(self.up(x, weights.get("up", ())), "mlp")
        hidden = activation(self.activation)(hidden)
        return self.down(hidden, weights.get("down", ()))

"""The mixer of Mamba-2: a state for each head, which every token decays and adds to."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from fusekit.context import Context
from fusekit.parameter import parameter
from fusekit.stream import Stream
from fusekit_modules.layers.begins import Marks
from fusekit_modules.layers.both_ways import both_ways
from fusekit_modules.layers.linear import Deltas, Linear
from fusekit_modules.layers.projections import Sizes
from fusekit_modules.layers.scan import ScanSettings
from fusekit_modules.layers.short_conv import ShortConv
from fusekit_modules.layers.steps import dt_bias, step_of
from fusekit_modules.layers.wide import wide
from fusekit_modules.ops.rule import able, chosen
from fusekit_modules.ops.ssd import ssd

A_RANGE = (1.0, 16.0)
"""In which -A begins."""
STATES = 64
"""Numbers that each channel carries, unless said."""


def _a_log(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return jnp.log(jax.random.uniform(key, shape, dtype, *A_RANGE))


class Direction(nnx.Module):
    """What one way of reading time has of its own: convolutions, decays and D."""

    def __init__(
        self, heads: int, size: int, groups: int, states: int, *, kernel: int, rngs: nnx.Rngs
    ):
        self.conv_x = ShortConv((heads, size), axes=("heads", "head_dim"), kernel=kernel, rngs=rngs)
        self.conv_b = ShortConv((groups, states), axes=(None, None), kernel=kernel, rngs=rngs)
        self.conv_c = ShortConv((groups, states), axes=(None, None), kernel=kernel, rngs=rngs)
        self.dt_bias = parameter(rngs, dt_bias, (heads,), ("heads",))
        self.a_log = parameter(rngs, _a_log, (heads,), ("heads",))
        self.d = parameter(rngs, nnx.initializers.ones, (heads,), ("heads",))

    def __call__(
        self,
        x: Float[Array, "b t h p"],
        b: Float[Array, "b t g n"],
        c: Float[Array, "b t g n"],
        dt: Float[Array, "b t h"],
        *,
        runs: Int[Array, "*b t"] | None,
        reset: Bool[Array, "b t"] | None,
        valid: Bool[Array, "b t"] | None,
        backend: str,
    ) -> Float[Array, "b t h p"]:
        """`runs` are what convolutions keep to; the rest as of `fusekit_modules.ops.ssd`."""
        x, b, c = self.conv_x(x, runs), self.conv_b(b, runs), self.conv_c(c, runs)
        step = step_of(dt, self.dt_bias[...])
        decay = -jnp.exp(self.a_log[...].astype(step.dtype)) * step
        given = (wide(x) * step[..., None]).astype(x.dtype)
        y, _ = ssd(given, decay, b, c, reset=reset, valid=valid, backend=backend)
        return wide(y) + wide(x) * self.d[...].astype(step.dtype)[:, None]


class SSD(nnx.Module):
    """Mamba-2 (Dao and Gu 2024, section 7): x, z, B, C and dt are projected of the tokens, x, B and
    C go through short convolutions, dt through softplus; then the scan, a norm gated by z, and a
    projection back. `both`: time is read in both ways, each with convolutions, decays and D of its
    own, and the results are added before the norm (as in Vision Mamba, Zhu et al. 2024).

    The projections are apart, not one matrix, so that heads can be cut. For `remat` it names
    `projections` and `scan` (what is read of the states, before the norm).

    Args:
      width: size of the tokens.
      heads: of the scan; the `size` of each is that of a head of attention of this width.
      settings: see `ScanSettings`.
      both: whether the stack is not causal.
    """

    def __init__(
        self, width: int, heads: int, settings: ScanSettings, *, both: bool, rngs: nnx.Rngs
    ):
        size, groups, states = width // heads, settings.groups, settings.states or STATES
        heads = heads * settings.expand
        self.groups = groups
        inward, shared = ("embed", "heads", "head_dim"), ("embed", None, None)
        plain: Any = {"bias": False, "rngs": rngs}
        self.x = Linear(width, (heads, size), axes=inward, **plain)
        self.z = Linear(width, (heads, size), axes=inward, **plain)
        self.b = Linear(width, (groups, states), axes=shared, **plain)
        self.c = Linear(width, (groups, states), axes=shared, **plain)
        self.dt = Linear(width, heads, axes=("embed", "heads"), **plain)
        ways = [
            Direction(heads, size, groups, states, kernel=settings.kernel, rngs=rngs)
            for _ in range(2 if both else 1)
        ]
        self.forward, self.backward = ways[0], ways[1] if both else None
        self.scale = parameter(rngs, nnx.initializers.ones, (heads * size,), ("heads",))
        self.out = Linear((heads, size), width, axes=("heads", "head_dim", "embed"), **plain)

    @staticmethod
    def projections(width: int, heads: int, settings: ScanSettings) -> Sizes:
        """Sizes (in, out) of what obeys weight deltas, by name."""
        inner = width * settings.expand
        shared = settings.groups * (settings.states or STATES)
        found = dict.fromkeys(("x", "z"), (width, inner))
        found |= dict.fromkeys(("b", "c"), (width, shared))
        return {**found, "dt": (width, heads * settings.expand), "out": (inner, width)}

    def __call__(
        self,
        stream: Stream,
        marks: Marks | None,
        weights: Mapping[str, Deltas],
        *,
        context: Context,
    ) -> Float[Array, "b t d"]:
        """What each token reads; zeros for those that are not there."""
        values = stream.clean().values
        every = {"x": self.x, "z": self.z, "b": self.b, "c": self.c, "dt": self.dt}
        x, z, b, c, dt = (
            checkpoint_name(project(values, weights.get(name, ())), "projections")
            for name, project in every.items()
        )
        forms = {"xla": able, "reference": able}
        backend = chosen(context, "state space", forms, shapes=[x]).backend
        ways = [partial(way, backend=backend) for way in (self.forward, self.backward) if way]
        y = both_ways(stream, marks, [x, b, c, dt], ways)
        y = self._normal(checkpoint_name(y.astype(z.dtype), "scan"), z)
        return self.out(y, weights.get("out", ()))

    def _normal(
        self, y: Float[Array, "b t h p"], z: Float[Array, "b t h p"]
    ) -> Float[Array, "b t h p"]:
        """y silu(z) / root mean square of its group, times a scale."""
        high = wide(y) * jax.nn.silu(wide(z))
        grouped = high.reshape(*high.shape[:2], self.groups, -1)
        square = jnp.mean(grouped * grouped, axis=-1, keepdims=True)
        normal = (grouped * jax.lax.rsqrt(square + 1e-6)).reshape(high.shape)
        scale = self.scale[...].astype(high.dtype).reshape(high.shape[2:])
        return (normal * scale).astype(y.dtype)

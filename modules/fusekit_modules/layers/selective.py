"""The mixer of Mamba-1: a state for each channel, with decays that each token chooses."""

import math
from collections.abc import Callable, Mapping
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
from fusekit_modules.ops.rule import chosen, target_of
from fusekit_modules.ops.selective_scan import able, given_of, selective_scan

STATES = 16
"""Numbers that each channel carries, unless said (Gu and Dao 2023, section 3.4)."""
DOUBTS = {"tpu": lambda: "it has not been measured on a TPU"}


def _a_log(_: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """-A begins as 1, 2, ..., n, the same for all channels (S4D-Real)."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype)), shape)


def _dt_kernel(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Evenly between the ends of rank^(-1/2), which keeps the variance."""
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Direction(nnx.Module):
    """What one way of reading time has of its own: a convolution, decays and D."""

    def __init__(self, channels: int, states: int, *, kernel: int, rngs: nnx.Rngs):
        self.conv = ShortConv((channels,), axes=("heads",), kernel=kernel, rngs=rngs)
        self.dt_bias = parameter(rngs, dt_bias, (channels,), ("heads",))
        self.a_log = parameter(rngs, _a_log, (channels, states), ("heads", None))
        self.d = parameter(rngs, nnx.initializers.ones, (channels,), ("heads",))

    def __call__(
        self,
        x: Float[Array, "b t c"],
        *,
        runs: Int[Array, "*b t"] | None,
        reset: Bool[Array, "b t"] | None,
        valid: Bool[Array, "b t"] | None,
        select: Callable[[Array], tuple[Array, Array, Array]],
        scan: Callable[..., Array],
    ) -> Float[Array, "b t c"]:
        """`select` gives dt, B and C of what the convolution gives; `runs` are what it keeps to.
        The rest as of `fusekit_modules.ops.selective_scan`."""
        x = self.conv(x, runs)
        dt, b, c = select(x)
        step = step_of(dt, self.dt_bias[...])
        a = -jnp.exp(self.a_log[...].astype(step.dtype))
        y = scan(x, step, a, b, c, reset=reset, valid=valid)
        return wide(y) + wide(x) * self.d[...].astype(step.dtype)


class Selective(nnx.Module):
    """Mamba-1 (Gu and Dao 2023, sections 3.2 to 3.4): x and z are projected of the tokens; x goes
    through a short convolution, and of it are projected B, C and, by way of a low rank, dt; then
    the scan, a gate silu(z), and a projection back. `both`: time is read in both ways, each with
    a convolution, decays and D of its own, and the results are added before the gate. (Zhu et al.
    2024 have projections to B, C and dt for each way, too; here they are in common.)

    For `remat` it names `projections` and `scan` (what is read of the states, before the gate).

    Args:
      width: size of the tokens; channels are `expand` times as many.
      heads: nothing to it.
      settings: see `ScanSettings`; `groups` say nothing to it.
      both: whether the stack is not causal.
    """

    def __init__(
        self, width: int, heads: int, settings: ScanSettings, *, both: bool, rngs: nnx.Rngs
    ):
        channels, self.rank, self.states = _sizes(width, settings)
        plain: Any = {"bias": False, "rngs": rngs}
        self.x = Linear(width, channels, axes=("embed", "heads"), **plain)
        self.z = Linear(width, channels, axes=("embed", "heads"), **plain)
        self.select = Linear(channels, self.rank + 2 * self.states, axes=("heads", None), **plain)
        self.dt = Linear(self.rank, channels, axes=(None, "heads"), init=_dt_kernel, **plain)
        ways = [
            Direction(channels, self.states, kernel=settings.kernel, rngs=rngs)
            for _ in range(2 if both else 1)
        ]
        self.forward, self.backward = ways[0], ways[1] if both else None
        self.out = Linear(channels, width, axes=("heads", "embed"), **plain)

    @staticmethod
    def projections(width: int, heads: int, settings: ScanSettings) -> Sizes:
        """Sizes (in, out) of what obeys weight deltas, by name."""
        channels, rank, states = _sizes(width, settings)
        return {
            **dict.fromkeys(("x", "z"), (width, channels)),
            "select": (channels, rank + 2 * states),
            "dt": (rank, channels),
            "out": (channels, width),
        }

    def __call__(
        self,
        stream: Stream,
        marks: Marks | None,
        weights: Mapping[str, Deltas],
        *,
        context: Context,
    ) -> Float[Array, "b t d"]:
        """What each token reads; zeros for those that are not there. Raises `BackendError` for a
        kernel asked for by name that cannot."""
        values = stream.clean().values
        x, z = (
            checkpoint_name(project(values, weights.get(name, ())), "projections")
            for name, project in (("x", self.x), ("z", self.z))
        )

        def select(x: Array) -> tuple[Array, Array, Array]:
            found = checkpoint_name(self.select(x, weights.get("select", ())), "projections")
            low, b, c = jnp.split(found, [self.rank, self.rank + self.states], axis=-1)
            return checkpoint_name(self.dt(low, weights.get("dt", ())), "projections"), b, c

        more: Any = {"select": select, "scan": partial(_scan, context)}
        ways = [partial(way, **more) for way in (self.forward, self.backward) if way]
        y = both_ways(stream, marks, [x], ways)
        y = checkpoint_name(y.astype(z.dtype), "scan")
        gated = wide(y) * jax.nn.silu(wide(z))
        return self.out(gated.astype(z.dtype), weights.get("out", ()))


def _sizes(width: int, settings: ScanSettings) -> tuple[int, int, int]:
    """Channels, the rank of dt, and states."""
    rank = settings.rank or math.ceil(width / 16)
    return width * settings.expand, rank, settings.states or STATES


def _scan(context: Context, *given: Array, **masks: Any) -> Float[Array, "b t c"]:
    """By the backend that the one rule gives (docs/design/017)."""
    target = target_of(context)
    can = able(given_of(*given, **masks, state=None), target)
    shapes = given[:1]
    choice = chosen(context, "selective scan", can, doubts=DOUBTS, shapes=shapes)
    more: Any = {"target": target, "layout": context.layout, "backend": choice.backend}
    return selective_scan(*given, **masks, **more)[0]

"""The selective scan of Mamba: a state of each channel that tokens write, decay and read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fusekit.layout import Layout
from fusekit_modules.ops.dispatch import Choice, Reason, choose
from fusekit_modules.ops.selective_scan import reference, tpu, xla
from fusekit_modules.ops.selective_scan.form import Given, Results, given_of
from fusekit_modules.ops.selective_scan.shards import Shards
from fusekit_modules.ops.target import Target

_BACKENDS: Mapping[str, ModuleType] = {"tpu": tpu, "xla": xla, "reference": reference}
"""Best first."""
_KERNELS = ("tpu",)
"""What the partitioner cannot cut."""


def able(given: Given, target: Target) -> dict[str, Callable[[], Reason]]:
    """The backends, best first, each with what says why it cannot; arrays may be shapes alone."""
    return {name: partial(module.unsupported, target, given) for name, module in _BACKENDS.items()}


@dataclass(frozen=True)
class Run:
    """Backends of the two passes, what they are compiled for, and how a mesh cuts kernels."""

    forward: Choice
    backward: Choice
    target: Target
    shards: Shards | None = None


def selective_scan(
    x: Float[Array, "b t d"],
    delta: Float[Array, "b t d"],
    a: Float[Array, "d n"],
    into: Float[Array, "b t n"],
    out: Float[Array, "b t n"],
    *,
    target: Target,
    reset: Bool[Array, "b t"] | None = None,
    valid: Bool[Array, "b t"] | None = None,
    state: Float[Array, "b d n"] | None = None,
    layout: Layout | None = None,
    backend: str = "auto",
    backward: str | None = None,
) -> tuple[Float[Array, "b t d"], Float[Array, "b d n"]]:
    """h_t = exp(delta_t a) h_(t-1) + delta_t x_t B_t and y_t = C_t · h_t, by channel (Gu and Dao
    2023, equation 2, with algorithm 2's B discretised by Euler's step).

    Args:
      x: tokens.
      delta: how long a token's step takes, not negative: what comes out of the softplus.
      a: of the decay of each channel and size of the state, negative.
      into: B, by which a token writes into the state.
      out: C, by which it reads from it.
      target: what it is compiled for.
      reset: tokens before which the state is forgotten: the first of a modality or a segment.
      valid: tokens that are there; default: all. Others leave the state as it is and give zeros,
        whatever they hold; a reset on one falls on the next that is there.
      state: before the first token; default: zeros.
      layout: over which kernels run; each device takes its examples and channels, time is whole.
      backend: `auto`, or a backend of both passes; `auto` takes kernels on TPUs (docs/kernels.md).
      backward: the backend of the backward pass, where it is another.

    Returns y, in x's dtype, and the state after the last token, in float32. Sums are in float32
    whatever the inputs' dtypes.

    Raises `FusekitError` for arguments that do not fit, and `BackendError` for a backend that is
    not there or cannot.
    """
    given = given_of(x, delta, a, into, out, reset=reset, valid=valid, state=state)
    run = plan(given, target=target, layout=layout, backend=backend, backward=backward)
    found: Any = _scan(run, given)
    y, last = found
    return y, jnp.swapaxes(last, 1, 2)


def plan(
    given: Given,
    *,
    target: Target,
    layout: Layout | None = None,
    backend: str = "auto",
    backward: str | None = None,
) -> Run:
    """The backends that `selective_scan` would use, and why; arrays may be shapes alone."""
    can = able(given, target)
    return Run(
        choose("selective scan", backend, can),
        choose("selective scan backward", backward or backend, can),
        target,
        None if layout is None else Shards.of(layout, given),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(run: Run, given: Given) -> tuple[Array, Array]:
    found = _forward(run, given, keep=False)
    return found.y, found.state


def _forward(run: Run, given: Given, *, keep: bool) -> Results:
    call = _call(run, run.forward, "forward", keep=keep)
    if run.shards is None or run.forward.backend not in _KERNELS:
        return call(given)
    return run.shards.forward(call, given)


def _keep(run: Run, given: Given) -> tuple[tuple[Array, Array], Any]:
    found = _forward(run, given, keep=True)
    return (found.y, found.state), (given, found.kept)


def _back(run: Run, kept: tuple[Given, Array], grads: tuple[Array, Array]) -> tuple[Given]:
    call = _call(run, run.backward, "backward")
    if run.shards is None or run.backward.backend not in _KERNELS:
        return (call(*kept, grads),)
    return (run.shards.backward(call, *kept, grads),)


def _call(run: Run, choice: Choice, name: str, **options: Any) -> Callable[..., Any]:
    if choice.backend in _KERNELS:
        options["interpret"] = run.target.interpret
    if choice.backend == "xla" and run.target.platform == "cpu":
        options["unroll"] = xla.UNROLL_CPU
    return partial(getattr(_BACKENDS[choice.backend], name), **options)


_scan.defvjp(_keep, _back)

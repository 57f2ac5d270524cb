"""Stream attention: several streams read themselves and shared tokens, in one call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import jax
from jaxtyping import Array, Float

from fusekit.layout import Layout
from fusekit_modules.ops.dispatch import BackendError, Choice, Reason, choose
from fusekit_modules.ops.stream_attention import gpu, reference, splash, tpu, xla
from fusekit_modules.ops.stream_attention.form import Form, Queries, Reads, Source, form_of
from fusekit_modules.ops.stream_attention.shards import Shards
from fusekit_modules.ops.target import Target

_BACKENDS: Mapping[str, ModuleType] = {
    "gpu": gpu,
    "tpu": tpu,
    "splash": splash,
    "xla": xla,
    "reference": reference,
}
"""Best first."""
_KERNELS = ("gpu", "tpu", "splash")
"""What the partitioner cannot cut."""
_BOTH = ("splash",)
"""Backends with a gradient of their own: both passes are theirs."""


@dataclass(frozen=True)
class Run:
    """A form, the backends of its two passes, and how a mesh cuts them."""

    form: Form
    forward: Choice
    backward: Choice
    shards: Shards | None = None


def stream_attention(
    queries: Sequence[Queries],
    sources: Sequence[Source],
    *,
    heads: int,
    target: Target,
    reads: Reads | None = None,
    scale: float | None = None,
    backend: str = "auto",
    backward: str | None = None,
    layout: Layout | None = None,
) -> tuple[Float[Array, "b q hd"], ...]:
    """What each stream reads: softmax(scale · query keyᵀ) value by head (Vaswani et al. 2017,
    equation 1), softmax over all the sources of the stream together.

    Of MBT (Nagrani et al. 2021, equations 8 and 9) a layer's streams, each with its bottleneck
    tokens, are one call. Self-attention is one stream and one source; so is cross-attention.

    Args:
      queries: of each stream, `[b, q, heads·d]`; lengths differ freely.
      sources: keys and values, `[b, k, heads·d]`.
      heads: how many share the last axis, side by side.
      target: what it is compiled for.
      reads: of each stream, which sources it reads; by default that of its own number, and all
        sources beyond the last stream's, which are shared.
      scale: of scores; by default 1 / sqrt(d).
      backend: `auto`, or a backend of both passes.
      backward: the backend of the backward pass, where it is another.
      layout: over which kernels run; each device takes its examples and heads.

    Returns one array for each stream, like its queries. A token that is absent, or may read
    nothing, gets exact zeros and passes none but zero gradients; NaN and infinities in what is
    absent go nowhere.

    Raises `FusekitError` for arguments that do not fit, and `BackendError` for a backend that is
    not there or cannot.
    """
    run = plan(
        queries,
        sources,
        heads=heads,
        target=target,
        reads=reads,
        scale=scale,
        backend=backend,
        backward=backward,
        layout=layout,
    )
    if run.forward.backend in _BOTH:
        return tuple(out for out, _ in _forward(run, queries, sources, logs=False))
    return _attend(run, tuple(queries), tuple(sources))


def unsupported(
    backend: str,
    queries: Sequence[Queries],
    sources: Sequence[Source],
    *,
    heads: int,
    target: Target,
) -> Reason:
    """Why a backend cannot run `stream_attention` of these, which may be shapes; `None`: it can."""
    form = form_of(queries, sources, heads=heads, scale=None, reads=None)
    form = replace(form, interpret=target.interpret)
    return _BACKENDS[backend].unsupported(target, form, queries, sources)


def plan(
    queries: Sequence[Queries],
    sources: Sequence[Source],
    *,
    heads: int,
    target: Target,
    reads: Reads | None = None,
    scale: float | None = None,
    backend: str = "auto",
    backward: str | None = None,
    layout: Layout | None = None,
) -> Run:
    """The backends that `stream_attention` would use, and why; arrays may be shapes alone."""
    form = form_of(queries, sources, heads=heads, scale=scale, reads=reads)
    form = replace(form, interpret=target.interpret)

    def asked(what: str, name: str, modules: Mapping[str, ModuleType]) -> Choice:
        reasons: dict[str, Callable[[], Reason]] = {
            name: partial(module.unsupported, target, form, queries, sources)
            for name, module in modules.items()
        }
        return choose(what, name, reasons)

    forward = asked("stream attention", backend, _BACKENDS)
    if forward.backend in _BOTH and backward in (None, forward.backend):
        back = forward
    else:
        alone = {name: module for name, module in _BACKENDS.items() if name not in _BOTH}
        back = asked("stream attention backward", backward or backend, alone)
        if forward.backend in _BOTH:
            raise BackendError(f"{forward.backend} makes both passes, and {back} was asked for")
    shards = None if layout is None else Shards.of(layout, form, len(queries[0].values))
    return Run(form, forward, back, shards)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    run: Run, queries: tuple[Queries, ...], sources: tuple[Source, ...]
) -> tuple[Array, ...]:
    return tuple(out for out, _ in _forward(run, queries, sources, logs=False))


def _forward(run: Run, queries: Any, sources: Any, *, logs: bool) -> Any:
    call = _BACKENDS[run.forward.backend].forward
    if run.shards is None or run.forward.backend not in _KERNELS:
        return call(run.form, queries, sources, logs=logs)
    return run.shards.forward(call, run.form, queries, sources)


def _keep(run: Run, queries: Any, sources: Any) -> tuple[tuple[Array, ...], Any]:
    results = _forward(run, queries, sources, logs=True)
    return tuple(out for out, _ in results), (queries, sources, results)


def _back(run: Run, kept: Any, grads: tuple[Array, ...]) -> Any:
    call = _BACKENDS[run.backward.backend].backward
    if run.shards is None or run.backward.backend not in _KERNELS:
        values, pairs = call(run.form, *kept, grads)
    else:
        values, pairs = run.shards.backward(call, run.form, *kept, grads)
    return tuple(Queries(d, None) for d in values), tuple(Source(k, v, None) for k, v in pairs)


_attend.defvjp(_keep, _back)

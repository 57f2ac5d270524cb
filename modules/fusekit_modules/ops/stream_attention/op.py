"""Stream attention: several streams read themselves and shared tokens, in one call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import jax
from jaxtyping import Array, Float

from fusekit_modules.ops.dispatch import Choice, Reason, choose
from fusekit_modules.ops.stream_attention import gpu, reference, tpu, xla
from fusekit_modules.ops.stream_attention.form import Form, Queries, Reads, Source, form_of
from fusekit_modules.ops.target import Target

_BACKENDS: Mapping[str, ModuleType] = {
    "gpu": gpu,
    "tpu": tpu,
    "xla": xla,
    "reference": reference,
}
"""Best first."""


@dataclass(frozen=True)
class Run:
    """A form and the backends of its two passes."""

    form: Form
    forward: Choice
    backward: Choice


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
    )
    return _attend(run, tuple(queries), tuple(sources))


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
) -> Run:
    """The backends that `stream_attention` would use, and why; arrays may be shapes alone."""
    form = form_of(queries, sources, heads=heads, scale=scale, reads=reads)
    form = replace(form, interpret=target.interpret)

    def asked(what: str, name: str) -> Choice:
        reasons: dict[str, Callable[[], Reason]] = {
            name: partial(module.unsupported, target, form, queries, sources)
            for name, module in _BACKENDS.items()
        }
        return choose(what, name, reasons)

    return Run(
        form,
        asked("stream attention", backend),
        asked("stream attention backward", backward or backend),
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    run: Run, queries: tuple[Queries, ...], sources: tuple[Source, ...]
) -> tuple[Array, ...]:
    forward = _BACKENDS[run.forward.backend].forward
    return tuple(out for out, _ in forward(run.form, queries, sources, logs=False))


def _keep(run: Run, queries: Any, sources: Any) -> tuple[tuple[Array, ...], Any]:
    results = _BACKENDS[run.forward.backend].forward(run.form, queries, sources)
    return tuple(out for out, _ in results), (queries, sources, results)


def _back(run: Run, kept: Any, grads: tuple[Array, ...]) -> Any:
    queries, sources, results = kept
    backward = _BACKENDS[run.backward.backend].backward
    values, pairs = backward(run.form, queries, sources, results, grads)
    return tuple(Queries(d, None) for d in values), tuple(Source(*d, None) for d in pairs)


_attend.defvjp(_keep, _back)

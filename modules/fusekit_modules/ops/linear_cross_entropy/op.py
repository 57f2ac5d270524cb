"""Cross-entropy of features through a linear map, by row; logits never stand in memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fusekit.layout import Layout
from fusekit.parameter import Axes
from fusekit_modules.ops.dispatch import Choice, Reason, choose
from fusekit_modules.ops.linear_cross_entropy import reference, tokamax, xla
from fusekit_modules.ops.linear_cross_entropy.given import Ends, Linear
from fusekit_modules.ops.linear_cross_entropy.shards import Shards
from fusekit_modules.ops.target import Target

CPU = Target("cpu")

LEAST_VOCABULARY = 8192
MOST_LOGITS = 1 << 22
"""Up to so many logits, or of smaller vocabularies, it is quicker to make them once and keep
them."""

_BACKENDS: Mapping[str, Any] = {"xla": xla, "reference": reference}
"""Best first."""


def pays(rows: int, vocabulary: int) -> bool:
    """Whether so many logits are better never made."""
    return vocabulary >= LEAST_VOCABULARY and rows * vocabulary > MOST_LOGITS


@dataclass(frozen=True)
class Run:
    """The backends of the two passes, and how a mesh cuts rows and vocabulary."""

    forward: Choice
    backward: Choice
    shards: Shards | None = None


def able(
    given: Linear,
    *,
    place: Target = CPU,
    layout: Layout | None = None,
    axes: Axes = (None, "vocab"),
    weighed: bool = False,
) -> dict[str, Callable[[], Reason]]:
    """The backends, best first, each with what says why it cannot; arrays may be shapes alone.
    `weighed`: with smoothing or class weights."""
    shards = Shards.of(layout, given.features.shape[:-1], given.kernel.shape, axes)
    return {
        "tokamax": lambda: tokamax.unsupported(place, given, shards, weighed=weighed),
        **{name: lambda: None for name in _BACKENDS},
    }


def plan(
    given: Linear,
    *,
    place: Target = CPU,
    layout: Layout | None = None,
    axes: Axes = (None, "vocab"),
    weighed: bool = False,
    backend: str = "auto",
    backward: str | None = None,
) -> Run:
    """What `linear_cross_entropy` would use; arrays may be shapes alone. `weighed`: with smoothing
    or class weights. Raises `BackendError`."""
    shards = Shards.of(layout, given.features.shape[:-1], given.kernel.shape, axes)
    can = able(given, place=place, layout=layout, axes=axes, weighed=weighed)
    if backend == "tokamax":  # does both passes, and needs the whole op
        can = {backend: can[backend]}
    else:
        del can["tokamax"]
    return Run(
        choose("linear cross-entropy", backend, can),
        choose("linear cross-entropy backward", backward or backend, can),
        shards,
    )


def linear_cross_entropy(
    features: Float[Array, "*n d"],
    kernel: Float[Array, "d v"],
    bias: Float[Array, "v"] | None,
    target: Int[Array, "*n"],
    counts: Bool[Array, "*n"],
    *,
    smoothing: float = 0.0,
    class_weights: Float[Array, "v"] | None = None,
    place: Target = CPU,
    layout: Layout | None = None,
    axes: Axes = (None, "vocab"),
    backend: str = "auto",
    backward: str | None = None,
) -> Float[Array, "*n"]:
    """By row, (1 - s) w_y (-log p_y) + (s / v) sum_c w_c (-log p_c), with p the softmax of
    l = features @ kernel + bias (smoothing s: Szegedy et al. 2016, section 7).

    Nothing of the size `[n, v]` is held by any backend but `reference`: backends find the logs of
    the summed exponentials and the targets' logits, and make logits again for the gradient. The
    smoothed part takes no logits, as sum_c w_c l_c is features @ (kernel @ w) + bias w.

    Args:
      features: of rows `[b]` or `[b, t]`; products are of their dtype, sums in float32 or wider.
      kernel, bias: of the map.
      target: the classes; one that is not there makes its row NaN.
      counts: which rows count; contents of the others are not read.
      smoothing: s.
      class_weights: w; default all one.
      place: what it is compiled for.
      layout: a mesh that cuts rows, and the vocabulary as its rules say of the kernel.
      axes: logical axes of the kernel.
      backend: `auto`, or a backend of both passes. `tokamax` does both, and is taken by name alone:
        it gives sums, so that of its rows only the sum, and its gradient, mean anything.
      backward: the backend of the backward pass, where it is another.

    Returns:
      in float32 or wider, zero in rows that do not count.

    Raises `BackendError` for a backend that is not there.
    """
    features = jnp.where(counts[..., None], features, jnp.zeros((), features.dtype))
    target = jnp.where(counts, target, 0).astype(jnp.int32)
    given = Linear(features, kernel, bias)
    weighed = bool(smoothing) or class_weights is not None
    options: Any = {"place": place, "layout": layout, "axes": axes, "weighed": weighed}
    run = plan(given, **options, backend=backend, backward=backward)
    if run.forward.backend == "tokamax":
        found = tokamax.total(features, kernel, target, counts, run.shards)
        return jnp.where(counts, found / jnp.maximum(jnp.sum(counts), 1), 0)
    ends: Any = _ends(run, given, target)
    total, own = ends
    vocabulary = kernel.shape[1]
    each = jnp.where((target >= 0) & (target < vocabulary), total - own, jnp.nan)
    if class_weights is not None:
        each = each * class_weights.astype(given.wide)[target]
    if smoothing:
        weights = jnp.ones(vocabulary) if class_weights is None else class_weights
        each = (1 - smoothing) * each + smoothing * _spread(given, weights / vocabulary, total)
    return jnp.where(counts, each, 0)


def _spread(given: Linear, weights: Float[Array, "v"], total: Array) -> Array:
    """sum_c w_c (-log p_c)."""
    weights = weights.astype(given.wide)
    kernel = given.kernel.astype(given.features.dtype)

    def product(a: Array, b: Array) -> Array:
        return jnp.dot(a.astype(given.wide), b, precision="highest")

    mean = product(given.features, product(kernel, weights))
    if given.bias is not None:
        mean = mean + product(given.bias, weights)
    return jnp.sum(weights) * total - mean


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ends(run: Run, given: Linear, target: Int[Array, "*n"]) -> Ends:
    return _forward(run, given, target)[0]


def _forward(run: Run, given: Linear, target: Array) -> tuple[Ends, Any]:
    call = _BACKENDS[run.forward.backend].forward
    if run.shards is None:
        total, own = call(_flat(given), target.reshape(-1))
        ends = total.reshape(target.shape), own.reshape(target.shape)
    else:
        ends = run.shards.forward(call, given, target)
    return ends, (given, target, ends[0])


def _backward(run: Run, kept: Any, grads: Ends) -> tuple[Linear, None]:
    given, target, total = kept
    call = _BACKENDS[run.backward.backend].backward
    if run.shards is not None:
        return run.shards.backward(call, given, target, total, grads), None
    rows = [array.reshape(-1) for array in (target, total, *grads)]
    found = call(_flat(given), *rows[:2], tuple(rows[2:]))
    return found._replace(features=found.features.reshape(given.features.shape)), None


_ends.defvjp(_forward, _backward)


def _flat(given: Linear) -> Linear:
    return given._replace(features=given.features.reshape(-1, given.features.shape[-1]))

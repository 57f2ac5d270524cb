"""How modules make parameters: a value, an initialiser, and logical axis names.

Axis names are what `Layout` maps to mesh axes: `embed`, `mlp`, `heads`, `head_dim`, `expert`,
`vocab`, `rank`, `features`, ... ; `None` for an axis that is never sharded.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax.numpy as jnp
from flax import nnx

Initializer = Callable[..., Any]
Axes = tuple[str | None, ...]


def parameter(
    rngs: nnx.Rngs, init: Initializer, shape: tuple[int, ...], axes: Axes, dtype: Any = jnp.float32
) -> nnx.Param:
    """A parameter with logical axes, one name (or None) an array axis."""
    if len(axes) != len(shape):
        raise ValueError(f"{len(shape)} sizes but {len(axes)} axis names: {shape}, {axes}")
    value = jnp.zeros(shape, dtype) if _shapes.get() else init(rngs.params(), shape, dtype)
    return nnx.Param(value, axes=axes)


_shapes: ContextVar[bool] = ContextVar("shapes", default=False)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Parameters that are made here are zeros: for tracing a module of which the shapes alone
    matter. The initialisers' random numbers would take several times as long."""
    token = _shapes.set(True)
    try:
        yield
    finally:
        _shapes.reset(token)


class Statistic(nnx.Variable):
    """A variable that is no parameter and that training updates: batch statistics, queues,
    codebooks, averages. Give it `axes=` like a parameter."""


def statistic(value: Any, axes: Axes) -> Statistic:
    """A non-parameter variable with logical axes."""
    return Statistic(jnp.asarray(value), axes=axes)

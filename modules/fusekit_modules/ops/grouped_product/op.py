"""Products of rows with the weights of their groups: a mixture of experts' feed-forward layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fusekit.errors import FusekitError
from fusekit_modules.ops.dispatch import Choice, Reason, choose
from fusekit_modules.ops.grouped_product import reference, tokamax, tpu, xla
from fusekit_modules.ops.target import Target

CPU = Target("cpu")


@dataclass(frozen=True)
class Run:
    """The backends of the two passes, and what for."""

    forward: Choice
    backward: Choice
    target: Target


def able(rows: Any, weights: Any, target: Target) -> dict[str, Callable[[], Reason]]:
    """The backends, best first, each with what says why it cannot; arrays may be shapes alone."""
    return {
        "tokamax": lambda: tokamax.unsupported(target, rows, weights),
        "tpu": lambda: tpu.unsupported(target, rows, weights),
        "xla": lambda: None,
        "reference": lambda: None,
    }


def plan(
    rows: Any,
    weights: Any,
    *,
    target: Target = CPU,
    backend: str = "auto",
    backward: str | None = None,
) -> Run:
    """What `grouped_product` would use; arrays may be shapes alone. Raises `BackendError`."""
    can = able(rows, weights, target)
    if "tokamax" not in (backend, backward):  # whose numbers were never seen: by name alone
        del can["tokamax"]
    return Run(
        choose("grouped product", backend, can),
        choose("grouped product backward", backward or backend, can),
        target,
    )


def grouped_product(
    rows: Float[Array, "n d"],
    sizes: Int[Array, "e"] | Sequence[int],
    weights: Float[Array, "e d h"],
    *,
    target: Target = CPU,
    backend: str = "auto",
    backward: str | None = None,
) -> Float[Array, "n h"]:
    """Each row times the weights of its group (Gale et al. 2022, section 5).

    Under a mesh it is called inside `jax.shard_map`, by each device on its own rows: the
    partitioner cannot cut kernels, nor sort without gathering.

    Args:
      rows: sorted by group; the first `sizes[0]` are of group 0, and so on. Those behind the last
        group are of none, and their contents are not read.
      sizes: of the groups. Python numbers: they are known while tracing, and rows are cut.
      weights: of each group.
      target: what it is compiled for.
      backend: `auto`, or a backend of both passes.
      backward: the backend of the backward pass, where it is another.

    Returns:
      in the dtype of the rows; zeros for rows of no group.

    Raises `FusekitError` for sizes that do not fit, `BackendError` for a backend that cannot.
    """
    if len(sizes) != len(weights):
        raise FusekitError(f"{len(sizes)} sizes of groups are given, and {len(weights)} weights")
    count = rows.shape[0]
    if not isinstance(sizes, jax.Array):
        if (total := sum(sizes)) > count:
            raise FusekitError(f"groups of {total} rows are more than the {count} there are")
        return xla.sliced(rows, tuple(sizes), weights)
    there = jnp.arange(count) < jnp.sum(sizes)
    rows = jnp.where(there[:, None], rows, jnp.zeros((), rows.dtype))
    run = plan(rows, weights, target=target, backend=backend, backward=backward)
    return _product(run, rows, sizes, weights)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(run: Run, rows: Array, sizes: Array, weights: Array) -> Array:
    return _call(run, run.forward, "forward", rows, sizes, weights)


def _forward(run: Run, rows: Array, sizes: Array, weights: Array) -> tuple[Array, Any]:
    return _product(run, rows, sizes, weights), (rows, sizes, weights)


def _backward(run: Run, kept: Any, grad: Array) -> tuple[Array, None, Array]:
    there = jnp.arange(grad.shape[0]) < jnp.sum(kept[1])
    grad = jnp.where(there[:, None], grad, jnp.zeros((), grad.dtype))
    by_rows, by_weights = _call(run, run.backward, "backward", *kept, grad)
    return by_rows, None, by_weights


_product.defvjp(_forward, _backward)


def _call(run: Run, choice: Choice, direction: str, *given: Any) -> Any:
    match choice.backend:
        case "tpu":
            return getattr(tpu, direction)(*given, interpret=run.target.interpret)
        case "tokamax":
            return getattr(tokamax, direction)(*given, platform=run.target.platform)
        case "xla":
            return getattr(xla, direction)(*given)
        case _:
            return getattr(reference, direction)(*given)

"""Fixed points of a map, sample by sample, differentiated without their iterations."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Map = Callable[[Any, Float[Array, "b n"]], Float[Array, "b n"]]


class Solver(NamedTuple):
    """How a fixed point is sought: `memory` is how many iterates Anderson's mixing combines."""

    method: Literal["anderson", "iteration"]
    tolerance: float
    iterations: int
    memory: int


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def fixed_point(
    f: Map, solver: Solver, theta: Any, start: Float[Array, "b n"]
) -> tuple[Float[Array, "b n"], Float[Array, "b"]]:
    """z = f(theta, z), and by sample the residual |f(z) - z| / |f(z)| that was reached.

    The gradient by theta is that of the equation (Bai et al. 2019, theorem 1): v = g + J^T v is
    itself solved as a fixed point, then v is pulled back through one call of f. `f` closes over no
    traced array. Of the residual there is no gradient.
    """
    return solve(lambda z: f(theta, z), start, solver)


def _forward(f: Map, solver: Solver, theta: Any, start: Array) -> Any:
    found: Any = fixed_point(f, solver, theta, start)
    return found, (theta, found[0])


def _backward(f: Map, solver: Solver, kept: Any, grads: tuple[Array, Array]) -> Any:
    (theta, z), (grad, _) = kept, grads
    pull = jax.vjp(lambda state: f(theta, state), z)[1]
    adjoint, _ = solve(lambda v: grad + pull(v)[0], grad, solver)
    return jax.vjp(lambda t: f(t, z), theta)[1](adjoint)[0], jnp.zeros_like(z)


fixed_point.defvjp(_forward, _backward)


class _State(NamedTuple):
    step: Array
    z: Float[Array, "b n"]
    residual: Float[Array, "b"]
    points: Float[Array, "b m n"]
    images: Float[Array, "b m n"]


def solve(
    f: Callable[[Array], Array], start: Float[Array, "b n"], solver: Solver
) -> tuple[Float[Array, "b n"], Float[Array, "b"]]:
    """Iterates until every sample is within the tolerance, with at most `iterations` calls of f. A
    sample that is stays as it is: how long others take changes nothing of it."""
    batch, size = start.shape
    replaced = jax.lax.dynamic_update_slice_in_dim
    memory = solver.memory if solver.method == "anderson" else 1
    empty = jnp.zeros((batch, memory, size), start.dtype)
    far = jnp.full((batch,), jnp.inf, start.dtype)

    def going(state: _State) -> Array:
        return (state.step < solver.iterations) & jnp.any(state.residual > solver.tolerance)

    def step(state: _State) -> _State:
        image, slot = f(state.z), state.step % memory
        residual = residual_of(state.z, image)
        points = replaced(state.points, state.z[:, None], slot, axis=1)
        images = replaced(state.images, image[:, None], slot, axis=1)
        mixed = image if memory == 1 else mix(points, images, jnp.arange(memory) <= state.step)
        stays = (residual <= solver.tolerance) | (state.step == solver.iterations - 1)
        z = jnp.where(stays[:, None], state.z, mixed)
        return _State(state.step + 1, z, residual, points, images)

    first = _State(jnp.zeros((), jnp.int32), start, far, empty, empty)
    last = jax.lax.while_loop(going, step, first)
    return last.z, last.residual


def residual_of(z: Float[Array, "b n"], image: Float[Array, "b n"]) -> Float[Array, "b"]:
    size = jnp.linalg.norm(image, axis=1)
    gap = jnp.linalg.norm(image - z, axis=1)
    return gap / jnp.maximum(size, jnp.finfo(z.dtype).tiny)


def mix(
    points: Float[Array, "b m n"], images: Float[Array, "b m n"], used: Bool[Array, "m"]
) -> Float[Array, "b n"]:
    """The combination of images, with weights that add up to one, whose combined residual is least
    (Anderson 1965; Walker and Ni 2011, section 2). Slots that are not used have no weight."""
    gaps = jnp.where(used[:, None], images - points, 0)
    gram = jnp.einsum("bmn,bkn->bmk", gaps, gaps, precision="highest")
    kind, both = jnp.finfo(gram.dtype), used[:, None] & used[None]
    scale = jnp.trace(gram, axis1=1, axis2=2)[:, None, None]
    eye = jnp.eye(len(used), dtype=gram.dtype)
    gram = gram / jnp.maximum(scale, kind.tiny) + 10 * kind.eps * eye
    weights = solve_positive(jnp.where(both, gram, eye), used.astype(gram.dtype))
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    return jnp.einsum("bm,bmn->bn", weights, images, precision="highest")


def solve_positive(a: Float[Array, "b m m"], right: Float[Array, "m"]) -> Float[Array, "b m"]:
    """a^-1 right for positive definite a, by Gauss-Jordan elimination, which needs no pivoting for
    these; a pivot that rounding made too small is raised, so that all is finite."""
    count, least = len(right), jnp.finfo(a.dtype).eps
    column = jnp.broadcast_to(right[:, None], (*a.shape[:2], 1))

    def eliminate(k: int, rows: Float[Array, "b m n"]) -> Float[Array, "b m n"]:
        pivot = jax.lax.dynamic_index_in_dim(rows, k, axis=1)
        by = jax.lax.dynamic_index_in_dim(pivot, k, axis=2)
        pivot = pivot / jnp.maximum(by, least)
        others = rows - jax.lax.dynamic_index_in_dim(rows, k, axis=2) * pivot
        return jnp.where((jnp.arange(count) == k)[:, None], pivot, others)

    rows = jnp.concatenate([a, column], axis=2)
    return jax.lax.fori_loop(0, count, eliminate, rows)[..., -1]

"""What is made of the scores of every row with every column, by a backend and over a mesh.

The gradient is taken here, so that forward and backward choose their backends independently.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool

from fusekit_modules.ops.contrastive import gpu, reference, tpu, xla
from fusekit_modules.ops.contrastive.given import How
from fusekit_modules.ops.contrastive.positives import right_scores
from fusekit_modules.ops.contrastive.reference import Pair
from fusekit_modules.ops.contrastive.scores import Kind, Operands, Positives
from fusekit_modules.ops.dispatch import Reason, choose
from fusekit_modules.ops.rule import able, doubtful, passes
from fusekit_modules.ops.target import Target

WHOLE = 1 << 22
"""More scores than this `auto` leaves to a kernel. No more volumes than this are computed by
`reference`, which is exact where they nearly vanish."""

BECAUSE = {
    "reference": f"up to {WHOLE} volumes are computed exactly",
    "gpu": "it was measured to be ahead",
    "tpu": "it is ahead by the compiler's estimate",
}
"""Why `auto` takes a backend."""

_MODULES: Mapping[str, Any] = {"reference": reference, "xla": xla, "tpu": tpu, "gpu": gpu}


@dataclass(frozen=True)
class Plan:
    """How, all of it static.

    Args:
      kind: the score and what is made of it.
      forward, backward: backends, by name.
      target: what for.
      own: whether row i and column i are the only right ones.
      layout: over which mesh rows are cut, if over one.
    """

    kind: Kind
    forward: str
    backward: str
    target: Target
    own: bool
    layout: Any = None

    @property
    def axes(self) -> tuple[str, ...]:
        """Mesh axes that cut rows and columns; none on one device."""
        return axes_of(self.layout)


def axes_of(layout: Any) -> tuple[str, ...]:
    """Mesh axes of a layout that cut rows; none on one device."""
    if layout is None:
        return ()
    named = layout.activations.get("batch") or ()
    named = (named,) if isinstance(named, str) else tuple(named)
    return tuple(axis for axis in named if layout.mesh.shape[axis] > 1)


def plan(kind: Kind, given: Operands, how: How, *, own: bool = True) -> Plan:
    """Chooses the backends. Raises `BackendError` if one that is asked for by name cannot."""
    size, target = given.x.shape[0] * given.y.shape[1], how.target

    def few() -> Reason:
        return None if size <= WHOLE else f"{size} volumes are more than {WHOLE}"

    def many() -> Reason:
        return None if size > WHOLE or target.interpret else f"{size} scores are few"

    def able_to(direction: str) -> dict[str, Any]:
        found = {
            "tpu": partial(tpu.unsupported, kind, given, target, direction),
            "gpu": partial(gpu.unsupported, kind, given, target, direction),
            "xla": able,
        }
        exact = {"reference": able}
        return exact | found if kind.score == "volume" else found | exact

    backends = {direction: able_to(direction) for direction in ("forward", "backward")}
    tried = partial(untried, kind, given, target)
    doubts = {"reference": few, "tpu": many, "gpu": lambda: many() or tried()}
    if how.context is not None:
        options: Any = {"doubts": doubts, "because": BECAUSE, "shapes": (given.x, given.y)}
        forward, backward = passes(how.context, kind.name, backends, **options)
        return Plan(kind, forward.backend, backward.backend, target, own, how.layout)

    def named(direction: str, asked: str) -> str:
        each = backends[direction]
        each = doubtful(each, doubts) if asked == "auto" else each
        return choose(f"{kind.name} {direction}", asked, each).backend

    forward, backward = named("forward", how.forward), named("backward", how.backward)
    return Plan(kind, forward, backward, target, own, how.layout)


def untried(kind: Kind, given: Operands, target: Target) -> str | None:
    """Why `auto` leaves a GPU's kernels alone: it takes those that were measured on one."""
    half = given.x.dtype in (jnp.bfloat16, jnp.float16)
    if (kind == Kind() and half) or target.interpret:
        return None
    return "it has not been measured on a GPU"


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def surprise(
    how: Plan,
    given: Operands,
    rows: Bool[Array, "b"],
    columns: Bool[Array, "n"],
    positives: Positives,
) -> Pair:
    """What `reference.forward` finds less the shares of the right scores: by row and by column.

    What does not count must have been replaced by zeros, and is to have no share.
    """
    return _forward(how, given, rows, columns, positives)[0]


def _forward(how: Plan, *inputs: Any) -> tuple[Pair, tuple]:
    given, rows, columns, positives = inputs
    found = _run(how, how.forward, "forward", given, rows, columns)
    own = right_scores(how.kind, given, positives, rows, columns, own=how.own)
    shares = positives.row_share, positives.column_share
    by_row, by_column = (
        jnp.where(counts, total - share * right, 0)
        for counts, total, share, right in zip((rows, columns), found, shares, own, strict=True)
    )
    return (by_row, by_column), (*inputs, found)


def _backward(how: Plan, kept: tuple, grads: Pair) -> tuple[Operands, None, None, None]:
    given, rows, columns, positives, found = kept
    grads = jnp.where(rows, grads[0], 0), jnp.where(columns, grads[1], 0)
    inputs = (given, rows, columns, positives, found, grads)
    return _run(how, how.backward, "backward", *inputs), None, None, None


surprise.defvjp(_forward, _backward)


def _run(how: Plan, backend: str, direction: str, *args: Any) -> Any:
    module = _MODULES[backend]
    options = {} if backend in ("reference", "xla") else {"target": how.target}
    call = partial(getattr(module, direction), how.kind, **options)
    if backend == "reference" or not how.axes:
        return call(*args)
    sharded = _over(how.axes, call) if direction == "forward" else _back_over(how.axes, call)
    cut, whole = P(how.axes), P()
    operands = Operands(cut, P(None, how.axes), whole, whole, cut, cut)
    specs = (operands, cut, cut, Positives(cut, cut, cut, cut), (cut, cut), (cut, cut))[: len(args)]
    parts = prod(how.layout.mesh.shape[axis] for axis in how.axes)
    filled = jax.tree.map(partial(_filled, parts), specs, args, is_leaf=_is_spec)
    found = jax.shard_map(
        sharded,
        mesh=how.layout.mesh,
        in_specs=specs,
        out_specs=(cut, cut) if direction == "forward" else operands,
        check_vma=False,
    )(*filled)
    due = args[1:3] if direction == "forward" else args[0]
    return jax.tree.map(lambda a, as_: a[tuple(map(slice, as_.shape))], found, due)


def _is_spec(node: Any) -> bool:
    return isinstance(node, P)


def _filled(parts: int, spec: P, array: Any) -> Any:
    """With zeros, which do not count, so that every device has as much."""
    if array is None or not spec:
        return array
    widths, cut = [(0, 0)] * array.ndim, len(spec) - 1
    widths[cut] = (0, -array.shape[cut] % parts)
    return jnp.pad(array, widths)


def _over(axes: tuple[str, ...], call: Any) -> Any:
    """Rows stay where they are, columns come from everywhere; by column, devices are merged."""

    def local(given: Operands, rows: Array, columns: Array) -> Pair:
        by_row, by_column = call(*_gathered(axes, given, rows, columns))
        any_row = jnp.any(rows)
        lowest = jnp.finfo(by_column.dtype).min
        most = lax.pmax(jnp.where(any_row, by_column, lowest), axes)
        summed = lax.psum(jnp.where(any_row, jnp.exp(by_column - most), 0), axes)
        total = most + jnp.log(jnp.where(summed > 0, summed, 1))
        return by_row, _own(axes, jnp.where(summed > 0, total, 0), columns)

    return local


def _back_over(axes: tuple[str, ...], call: Any) -> Any:
    def local(
        given: Operands, rows: Array, columns: Array, right: Positives, found: Pair, grads: Pair
    ) -> Operands:
        every, rows, all_columns = _gathered(axes, given, rows, columns)
        pairs = [(pair[0], _gather(axes, pair[1])) for pair in (found, grads)]
        right = right._replace(
            columns=_gather(axes, right.columns), column_share=_gather(axes, right.column_share)
        )
        grad = call(every, rows, all_columns, right, *pairs)
        top = grad.column
        return grad._replace(
            y=lax.psum_scatter(grad.y, axes, scatter_dimension=1, tiled=True),
            scale=lax.psum(grad.scale, axes),
            bias=lax.psum(grad.bias, axes),
            column=None if top is None else lax.psum_scatter(top, axes, tiled=True),
        )

    return local


def _gather(axes: tuple[str, ...], array: Array, axis: int = 0) -> Array:
    return lax.all_gather(array, axes, axis=axis, tiled=True)


def _gathered(
    axes: tuple[str, ...], given: Operands, rows: Array, columns: Array
) -> tuple[Operands, Array, Array]:
    top = None if given.column is None else _gather(axes, given.column)
    every = given._replace(y=_gather(axes, given.y, 1), column=top)
    return every, rows, _gather(axes, columns)


def _own(axes: tuple[str, ...], whole: Array, part: Array) -> Array:
    return lax.dynamic_slice_in_dim(whole, lax.axis_index(axes) * part.shape[0], part.shape[0])

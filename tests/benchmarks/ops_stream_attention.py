"""Stream attention for the benchmark of operations: our kernels and what else computes the same."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ops_timing import Pass, Task

from fusekit_modules.ops.stream_attention import cases, floors, gpu, reference, xla
from fusekit_modules.ops.stream_attention.cases import Case
from fusekit_modules.ops.stream_attention.form import Form, Queries, Source, form_of

LIMIT = 5e-3
FUSED = gpu.Tiles(fused=True)
SWEPT = (
    gpu.Tiles(64, 64, 4, 2),
    gpu.Tiles(64, 64, 4, 3),
    gpu.Tiles(64, 32, 4, 3),
    gpu.Tiles(64, 128, 4, 2),
    gpu.Tiles(128, 64, 4, 2),
    gpu.Tiles(128, 64, 8, 2),
    gpu.Tiles(128, 128, 8, 2),
    gpu.Tiles(32, 64, 4, 2),
    gpu.Tiles(64, 64, 4, 3, fused=True),
    gpu.Tiles(128, 64, 4, 2, fused=True),
    gpu.Tiles(128, 64, 8, 3, fused=True),
)
"""Cuts that are tried of the first case, beside the usual one."""


def stream_attention(args: Any) -> Iterator[tuple[str, Callable[[], Task]]]:
    """By name, what makes the tasks."""
    for number, case in enumerate(cases.TESTED if args.small else cases.TIMED):
        if args.cases is None or number in args.cases:
            yield case.name, partial(task, case, args, compiled=number < 2)
        if number == 0 and not args.no_sweep:
            yield f"{case.name}, cuts", partial(sweep, case, args)


def inputs(case: Case, args: Any) -> tuple[Form, list[Any]]:
    """The form, and sets of (streams, sources, gradients of results); absent tokens are finite, as
    others need it."""
    sets = []
    for seed in range(args.sets):
        queries, sources = jax.tree.map(finite, cases.arrays(case, jnp.bfloat16, seed=seed))
        keys = jax.random.split(jax.random.key(seed), len(queries))
        grads = [
            jax.random.normal(k, q.values.shape, jnp.bfloat16)
            for k, q in zip(keys, queries, strict=True)
        ]
        sets.append((list(queries), list(sources), grads))
    form = form_of(sets[0][0], sets[0][1], heads=case.heads, scale=None, reads=case.reads)
    return replace(form, interpret=args.small), sets


def finite(array: Any) -> Any:
    return array if array.dtype == bool else jnp.nan_to_num(array, posinf=1.0, neginf=1.0)


class Due:
    """What the float32 reference gives for the first set, and where anything is read at all."""

    def __init__(self, form: Form, given: Any):
        queries, sources, grads = jax.tree.map(
            lambda a: a if a.dtype == bool else a.astype(jnp.float32), given
        )

        def run(queries: Any, sources: Any, grads: Any) -> Any:
            results = reference.forward(form, queries, sources)
            d_values, pairs = reference.backward(form, queries, sources, results, grads)
            return [out for out, _ in results], (d_values, pairs)

        self.outs, self.grads = jax.tree.map(numbers, jax.jit(run)(queries, sources, grads))
        self.rows = []
        for stream, read in zip(queries, form.reads, strict=True):
            masks = [reference.mask_of(sources[n].key, sources[n].mask) for n in read]
            some = jnp.any(jnp.concatenate(masks, 1), axis=1)[:, None]
            self.rows.append(numbers(some & reference.mask_of(stream.values, stream.mask)))
        there = [numbers(reference.mask_of(s.key, s.mask)) for s in sources]
        self.there = [*self.rows, *(mask for mask in there for _ in ("key", "value"))]

    def of_outs(self, found: Any) -> float:
        """Distance of results, where something is read."""
        return distance([numbers(f) for f in found], self.outs, self.rows)

    def of_both(self, found: Any) -> float:
        """Distance of results and of gradients of what is there, the larger."""
        outs, grads = found
        grads = [numbers(g) for g in jax.tree.leaves(grads)]
        return max(self.of_outs(outs), distance(grads, jax.tree.leaves(self.grads), self.there))


def distance(found: list[Any], due: list[Any], rows: list[Any]) -> float:
    """Norm of the difference over the norm of what is due, of some rows of each array."""
    pairs = zip(found, due, rows, strict=True)
    apart = sum(np.sum(np.where(r[..., None], f - d, 0) ** 2) for f, d, r in pairs)
    return float(np.sqrt(apart / sum(np.sum(d**2) for d in due)))


def numbers(array: Any) -> np.ndarray:
    """A NumPy array, of float32 where it holds fractions."""
    if hasattr(array, "detach"):
        array = array.detach().float().cpu().numpy()
    array = np.asarray(array)
    return array if array.dtype == bool else array.astype(np.float32)


def task(case: Case, args: Any, *, compiled: bool) -> Task:
    form, sets = inputs(case, args)
    due = Due(replace(form, interpret=False), sets[0])
    forward = floors.forward(form, *sets[0][:2])
    back = floors.backward(form, *sets[0][:2])
    others: dict[str, Callable[..., Any]] = {"xla_naive": partial(naive, form)}
    for name in ("xla", "cudnn"):
        others[f"jax_{name}"] = partial(dot_product_attention, form, name)

    def theirs(both: bool) -> Any:
        if args.no_torch:
            return {}
        from ops_torch import candidates

        return candidates(form, sets, compiled=compiled, both=both)

    only = Pass(
        "forward",
        {
            "ours": partial(ours_forward, form),
            "ours_fused": partial(ours_forward, form, tiles=FUSED),
        },
        {"ours_xla": partial(portable_forward, form)}
        | {name: partial(without_grads, call) for name, call in others.items()},
        partial(theirs, both=False),
        due.of_outs,
        LIMIT,
        forward.flops,
        forward.bytes,
    )
    both = Pass(
        "both",
        {
            "ours": partial(ours_both, form),
            "ours_fused": partial(ours_both, form, first=FUSED, tiles=(FUSED, FUSED)),
        },
        {"ours_xla": partial(portable_both, form)}
        | {name: partial(with_grads, call) for name, call in others.items()},
        partial(theirs, both=True),
        due.of_both,
        LIMIT,
        forward.flops + back.flops,
        forward.bytes + back.bytes,
    )
    return Task(case.name, sets, [only, both])


def sweep(case: Case, args: Any) -> Task:
    """Each kernel of ours with other cuts, the rest as usual."""
    form, sets = inputs(case, args)
    due = Due(replace(form, interpret=False), sets[0])
    floor = floors.forward(form, *sets[0][:2])
    both = floors.backward(form, *sets[0][:2])
    swept = SWEPT[:2] if args.small else SWEPT
    name = {t: f"{t.queries}x{t.keys} w{t.warps} s{t.stages}{' f' * t.fused}" for t in swept}
    calls = {
        "forward": {name[t]: partial(ours_forward, form, tiles=t) for t in swept},
        "of queries": {name[t]: partial(ours_both, form, tiles=(t, gpu.KEYS)) for t in swept},
        "of keys": {name[t]: partial(ours_both, form, tiles=(gpu.QUERIES, t)) for t in swept},
    }
    passes = [
        Pass(
            kernel,
            given,
            {},
            dict,
            due.of_outs if kernel == "forward" else due.of_both,
            LIMIT,
            floor.flops + (0 if kernel == "forward" else both.flops),
            floor.bytes + (0 if kernel == "forward" else both.bytes),
        )
        for kernel, given in calls.items()
    ]
    return Task(f"{case.name}, cuts", sets, passes)


def ours_forward(
    form: Form, queries: Any, sources: Any, grads: Any, tiles: gpu.Tiles = gpu.FORWARD
) -> Any:
    return [out for out, _ in gpu.forward(form, queries, sources, logs=False, tiles=tiles)]


def ours_both(
    form: Form,
    queries: Any,
    sources: Any,
    grads: Any,
    tiles: tuple[gpu.Tiles, gpu.Tiles] = (gpu.QUERIES, gpu.KEYS),
    first: gpu.Tiles = gpu.FORWARD,
) -> Any:
    results = gpu.forward(form, queries, sources, tiles=first)
    found = gpu.backward(form, queries, sources, results, grads, tiles=tiles)
    return [out for out, _ in results], found


def portable_forward(form: Form, queries: Any, sources: Any, grads: Any) -> Any:
    return [out for out, _ in xla.forward(form, queries, sources)]


def portable_both(form: Form, queries: Any, sources: Any, grads: Any) -> Any:
    results = xla.forward(form, queries, sources)
    return [out for out, _ in results], xla.backward(form, queries, sources, results, grads)


def naive(form: Form, queries: list[Queries], sources: list[Source]) -> list[Any]:
    """What one would write: softmax in float32, one attention a stream."""
    outs = []
    for stream, read in zip(queries, form.reads, strict=True):
        query, key, value, there = joined(form, stream, [sources[n] for n in read])
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32) * form.scale
        if there is not None:
            scores = jnp.where(there[:, None, None, :], scores, -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
        outs.append(jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(stream.values.shape))
    return outs


def dot_product_attention(
    form: Form, implementation: Any, queries: list[Queries], sources: list[Source]
) -> list[Any]:
    """JAX's own, one call a stream."""
    outs = []
    for stream, read in zip(queries, form.reads, strict=True):
        query, key, value, there = joined(form, stream, [sources[n] for n in read])
        mask = None if there is None else there[:, None, None, :]
        if mask is not None and implementation == "cudnn":
            mask = jnp.broadcast_to(mask, (len(query), 1, query.shape[1], key.shape[1]))
        out = jax.nn.dot_product_attention(
            query, key, value, mask=mask, scale=form.scale, implementation=implementation
        )
        outs.append(out.reshape(stream.values.shape))
    return outs


def joined(form: Form, stream: Queries, sources: list[Source]) -> tuple[Any, Any, Any, Any]:
    def heads(array: Any) -> Any:
        return array.reshape(*array.shape[:2], form.heads, -1)

    key = jnp.concatenate([heads(s.key) for s in sources], axis=1)
    value = jnp.concatenate([heads(s.value) for s in sources], axis=1)
    there = None
    if any(s.mask is not None for s in sources):
        there = jnp.concatenate([reference.mask_of(s.key, s.mask) for s in sources], axis=1)
    return heads(stream.values), key, value, there


def without_grads(call: Callable[..., Any], queries: Any, sources: Any, grads: Any) -> Any:
    return call(queries, sources)


def with_grads(call: Callable[..., Any], queries: Any, sources: Any, grads: Any) -> Any:
    """Results and gradients by JAX's own differentiation. What is absent has none."""

    def outs(values: Any, pairs: Any) -> Any:
        streams = [q._replace(values=v) for q, v in zip(queries, values, strict=True)]
        return call(
            streams, [Source(k, v, s.mask) for (k, v), s in zip(pairs, sources, strict=True)]
        )

    found, back = jax.vjp(outs, [q.values for q in queries], [(s.key, s.value) for s in sources])
    return found, back(masked(queries, grads))


def masked(queries: Any, grads: Any) -> Any:
    """Gradients of results, zero for tokens that are not there."""
    return [
        g if q.mask is None else jnp.where(q.mask[..., None], g, 0)
        for q, g in zip(queries, grads, strict=True)
    ]

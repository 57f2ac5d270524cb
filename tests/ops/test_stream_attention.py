"""Stream attention against float64 NumPy, values and gradients; masks; what cannot be asked."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import FusekitError
from fusekit_modules.ops import BackendError, Target
from fusekit_modules.ops.stream_attention import Queries, Source, cases, plan, stream_attention
from tests.support.often import often

CPU = Target("cpu")
MISSING = ("none", "some", "streams", "all")


def by_hand(case, queries, sources):
    """In float64, one query of one head at a time."""
    found = []
    for (values, mask, segment), read in zip(queries, cases.reads_of(case), strict=True):
        out = np.zeros(values.shape)
        for b, t, h in np.ndindex(*values.shape[:2], case.heads):
            at = slice(h * case.head_dim, (h + 1) * case.head_dim)
            keys, vectors = [], []
            for key, value, there, segments in (sources[n] for n in read):
                kept = range(key.shape[1]) if there is None else np.flatnonzero(there[b])
                if segment is not None and segments is not None:
                    kept = [k for k in kept if segments[b, k] == segment[b, t]]
                keys += [key[b, k, at] for k in kept]
                vectors += [value[b, k, at] for k in kept]
            if not keys or (mask is not None and not mask[b, t]):
                continue
            scores = np.array(keys) @ values[b, t, at] / np.sqrt(case.head_dim)
            weights = np.exp(scores - scores.max())
            out[b, t, at] = weights @ np.array(vectors) / weights.sum()
        found.append(out)
    return found


def doubled(given):
    """As float64 NumPy; masks and segments stay."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64 if a.dtype == "f4" else None), given)


def attended(case, **options):
    return partial(stream_attention, heads=case.heads, reads=case.reads, target=CPU, **options)


def call(case, queries, sources, **options):
    return jax.jit(attended(case, **options))(queries, sources)


def difference(found, due):
    found, due = (np.concatenate([np.ravel(a) for a in jax.tree.leaves(x)]) for x in (found, due))
    return np.linalg.norm(found - due) / max(np.linalg.norm(due), 1e-30)


def gradients(case, queries, sources, weights, **options):
    """Of the sum of the results, each times its weights: by values, keys and values."""

    def loss(values, pairs):
        streams = [q._replace(values=v) for q, v in zip(queries, values, strict=True)]
        read = [s._replace(key=k, value=v) for (k, v), s in zip(pairs, sources, strict=True)]
        outs = attended(case, **options)(streams, read)
        return sum(jnp.vdot(w, out) for w, out in zip(weights, outs, strict=True))

    values, pairs = [q.values for q in queries], [(s.key, s.value) for s in sources]
    return jax.jit(jax.grad(loss, (0, 1)))(values, pairs)


def some_weights(queries):
    rng = np.random.default_rng(7)
    return [rng.standard_normal(q.values.shape) for q in queries]


@pytest.mark.parametrize("backend", ["reference", "xla"])
@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("case", cases.TESTED + cases.PACKED, ids=lambda case: case.name)
def test_values_are_those_of_float64(case, missing, backend):
    case = replace(case, missing=missing)
    queries, sources = cases.arrays(case)
    due = by_hand(case, *doubled((queries, sources)))
    assert difference(call(case, queries, sources, backend=backend), due) < 1e-6


@pytest.mark.parametrize("backend", often(["reference", "xla"], ["xla"]))
@pytest.mark.parametrize("missing", often(["none", "some"], ["some"]))
@pytest.mark.parametrize("case", cases.TESTED[3:] + cases.PACKED, ids=lambda case: case.name)
def test_gradients_are_differences_of_float64(case, missing, backend):
    case = replace(case, missing=missing)
    queries, sources = cases.arrays(case)
    weights = some_weights(queries)
    found = gradients(case, queries, sources, weights, backend=backend)
    given = doubled(([q.values for q in queries], [(s.key, s.value) for s in sources]))
    masks = [q.mask for q in queries], [(s.mask, s.mask) for s in sources]
    leaves, tree = jax.tree.flatten(given)
    there = [
        np.ones(leaf.shape[:2], bool) if mask is None else np.asarray(mask)
        for leaf, mask in zip(
            leaves, jax.tree.leaves(masks, is_leaf=lambda m: m is None), strict=True
        )
    ]
    rng = np.random.default_rng(3)
    for number in range(len(leaves)):
        way = rng.standard_normal(leaves[number].shape) * there[number][..., None]

        def loss(step, number=number, way=way):
            moved = [leaf + step * way if n == number else leaf for n, leaf in enumerate(leaves)]
            values, pairs = jax.tree.unflatten(tree, moved)
            outs = by_hand(
                case,
                [Queries(v, *q[1:]) for v, q in zip(values, queries, strict=True)],
                [Source(k, v, *s[2:]) for (k, v), s in zip(pairs, sources, strict=True)],
            )
            return sum(np.vdot(w, out) for w, out in zip(weights, outs, strict=True))

        slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        gradient = np.asarray(jax.tree.leaves(found)[number], np.float64)
        assert np.vdot(gradient, way) == pytest.approx(slope, rel=2e-5, abs=2e-5)
        assert not gradient[~there[number]].any()


@pytest.mark.parametrize("backend", ["reference", "xla"])
def test_what_is_wholly_absent_gives_zeros_and_zero_gradients(backend):
    case = replace(cases.TESTED[1], missing="all")
    queries, sources = cases.arrays(case)
    found = gradients(case, queries, sources, some_weights(queries), backend=backend)
    outs = call(case, queries, sources, backend=backend)
    assert not any(np.any(np.asarray(a) != 0) for a in jax.tree.leaves((outs, found)))


def test_without_segments_tokens_are_of_segment_0():
    (query,), (source,) = cases.arrays(cases.TESTED[0])
    segment = jnp.broadcast_to((jnp.arange(24) % 3).astype("int32"), (2, 24))
    options = {"heads": 2, "target": CPU, "backend": "xla"}
    (found,) = stream_attention([query._replace(segment=segment)], [source], **options)
    (due,) = stream_attention([query], [source], **options)
    np.testing.assert_array_equal(found[:, ::3], due[:, ::3])
    assert not np.any(found[:, 1::3])
    assert not np.any(found[:, 2::3])


@pytest.mark.parametrize("missing", often(MISSING, ["none", "some"]))
def test_the_portable_form_has_the_gradients_of_the_reference(missing):
    for case in cases.TESTED + cases.PACKED:
        case = replace(case, missing=missing)
        queries, sources = cases.arrays(case)
        weights = some_weights(queries)
        due = gradients(case, queries, sources, weights, backend="reference")
        assert difference(gradients(case, queries, sources, weights, backend="xla"), due) < 1e-5
        mixed = gradients(case, queries, sources, weights, backend="xla", backward="reference")
        assert difference(mixed, due) < 1e-5


def test_bfloat16_is_summed_in_float32():
    case = replace(cases.TESTED[2], missing="some")
    queries, sources = cases.arrays(case, jnp.bfloat16)
    weights = some_weights(queries)
    rounded = jax.tree.map(
        lambda a: a.astype(jnp.float32) if a.dtype != bool else a, (queries, sources)
    )
    due = gradients(case, *rounded, weights, backend="reference")
    outs = call(case, queries, sources, backend="xla")
    assert outs[0].dtype == jnp.bfloat16
    assert difference(outs, call(case, *rounded, backend="reference")) < 5e-3
    assert difference(gradients(case, queries, sources, weights, backend="xla"), due) < 5e-3


def test_a_plan_says_which_backends_run_and_why():
    case = cases.TESTED[0]
    queries, sources = cases.arrays(case)
    run = plan(queries, sources, heads=case.heads, target=CPU, backward="reference")
    assert str(run.forward).startswith("stream attention: xla; not gpu: the target is a CPU")
    assert str(run.backward) == "stream attention backward: reference, as asked"
    with pytest.raises(BackendError, match="cannot use the backend gpu: the target is a CPU"):
        call(case, queries, sources, backend="gpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "a width of 32 does not divide into 5 heads"),
        ({"reads": ((0, 0),)}, r"1 streams cannot read \(\(0, 0\),\)"),
        ({"reads": ((1,),)}, r"each reads one or more of the sources 0 to 0"),
    ],
)
def test_forms_that_are_none_are_refused(change, message):
    queries, sources = cases.arrays(cases.TESTED[0])
    with pytest.raises(FusekitError, match=message):
        stream_attention(queries, sources, target=CPU, **({"heads": 2} | change))


def test_arrays_that_do_not_fit_are_refused():
    (query,), (source,) = cases.arrays(cases.TESTED[0])

    def refused(message, query=query, source=source):
        with pytest.raises(FusekitError, match=message):
            stream_attention([query], [source], heads=2, target=CPU)

    refused(
        "keys 0 are bfloat16, not float32",
        source=Source(*(a.astype(jnp.bfloat16) for a in source[:2])),
    )
    refused("source 0 has keys of shape", source=source._replace(value=source.value[:, 1:]))
    refused(r"keys 0 have shape \(1, 24, 32\)", source=source._replace(key=source.key[:1]))
    refused("mask of queries 0 is float32", query=query._replace(mask=jnp.ones((2, 24))))
    segment = jnp.zeros((2, 25), "int32")
    refused(r"segments are int32 of shape \(2, 25\)", source=source._replace(segment=segment))
    with pytest.raises(FusekitError, match="no stream reads the source 1"):
        stream_attention([query], [source, source], heads=2, target=CPU, reads=((0,),))

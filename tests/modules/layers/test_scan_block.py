"""The block that scans, against float64 NumPy: both ways and one, resets, padding, hooks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit.layered import Branch, Edit, Edits, KeyValue, LowRank, NormDelta
from fusekit.stream import Span, Stream
from fusekit_modules.layers.begins import Marks
from fusekit_modules.layers.scan import ScanSettings
from fusekit_modules.layers.scan_block import ScanBlock
from tests.modules.layers.harness import STILL, TIGHT, check_gradients, float64, randomised
from tests.reference import state_space as reference
from tests.reference.transformer import mlp, norm

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 7, 8))
Y = RNG.normal(size=(2, 2, 8))
W = RNG.normal(size=(8, 8))
SPANS = (Span("a", 1, readout=True), Span("a", 4, items=2), Span("b", 2))
SMALL = {"states": 3, "groups": 2, "kernel": 3}


def made(*, causal=False, readouts=0, resets=None):
    return randomised(
        ScanBlock(
            "ssd",
            8,
            2,
            scan=ScanSettings(**SMALL, resets=resets),
            hidden=6,
            causal=causal,
            readouts=readouts,
            rngs=nnx.Rngs(0),
        )
    )


BOTH, P = made()
CAUSAL, Q = made(causal=True, readouts=1)


def run(build, p, *edits, x=X, context=STILL, spans=SPANS, **stream):
    """Compiled, for that takes less long than one operation at a time."""

    def call(p, given):
        return build(p)(given, Edits(edits), context=context)

    with float64():
        return jax.jit(call)(p, Stream(jnp.asarray(x), spans=spans, **stream))


def due(p, x, sizes=(1, 4, 2), **more):
    return reference.block(p, "", x, sizes=sizes, **more)


def at(*places, size=7):
    return np.isin(np.arange(size), places)


def test_time_is_read_both_ways():
    found = run(BOTH, P).stream.values
    np.testing.assert_allclose(found, [due(P, x) for x in X], **TIGHT)


def test_gradients_of_a_block_that_reads_both_ways():
    with_x = {**P, "tokens": X[:1, :4]}
    spans = (Span("a", 4),)

    def ours(p):
        p = dict(p)
        x = p.pop("tokens")
        return BOTH(p)(Stream(x, spans=spans), context=STILL).stream.values

    def numpy(p):
        return np.stack([reference.block(p, "", x) for x in p["tokens"]])

    check_gradients(ours, numpy, with_x)


def test_a_causal_scan_meets_readout_tokens_last():
    order = [1, 2, 3, 4, 5, 6, 0]
    found = np.asarray(run(CAUSAL, Q).stream.values)
    by_hand = [due(Q, x[order], sizes=(4, 2, 1)) for x in X]
    np.testing.assert_allclose(found[:, order], by_hand, **TIGHT)


def test_the_future_reaches_only_readout_tokens():
    changed = X.copy()
    changed[:, 4:] *= -2.0
    one, other = (np.asarray(run(CAUSAL, Q, x=x).stream.values) for x in (X, changed))
    np.testing.assert_array_equal(one[:, 1:4], other[:, 1:4])
    assert (np.abs(one[:, [0, 4, 5, 6]] - other[:, [0, 4, 5, 6]]).max(axis=(0, 2)) > 1e-3).all()


RESETS = {
    "segment": ((), ()),
    "label": ((5,), (4,)),
    "item": ((3, 5), (2, 4)),
}
"""Where states begin anew, forwards and back, in tokens of `SPANS`."""


@pytest.mark.parametrize("resets", RESETS)
def test_states_begin_anew(resets):
    build, p = made(resets=resets)
    begins = tuple(at(*places) for places in RESETS[resets])
    found = run(build, p).stream.values
    np.testing.assert_allclose(found, [due(p, x, begins=begins) for x in X], **TIGHT)


def test_segments_part_whatever_is_said_and_padding_is_passed_over():
    segment = jnp.asarray([[0, 0, 0, 9, 1, 1, 1], [0, 0, 0, 0, 0, 1, 2]])
    mask = np.asarray([[1, 1, 1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 1, 1]], bool)
    found = run(BOTH, P, segment=segment, mask=jnp.asarray(mask)).stream.values
    begins = [(at(4), at(2)), (at(5, 6), at(4, 5))]
    for n, x in enumerate(X):
        by_hand = due(P, x, there=mask[n], begins=begins[n])
        np.testing.assert_allclose(found[n][mask[n]], by_hand[mask[n]], **TIGHT)


def test_what_is_absent_changes_nothing_and_gets_nothing_from_the_scan():
    mask = jnp.asarray([[1, 1, 1, 0, 1, 0, 0], [1] * 7], bool)
    presence = jnp.asarray([True, False])
    valid = np.asarray(mask & presence[:, None])
    found = []
    for filler in (0.0, 1e30, np.nan):
        x = np.where(valid[..., None], X, filler)
        stream = run(BOTH, P, x=x, mask=mask, presence=presence).stream
        found.append(np.asarray(stream.values)[valid])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    with float64():
        shown = Stream(jnp.asarray(X), mask, presence, spans=SPANS)
        mixed = jax.jit(lambda p, s: BOTH(p).ssd(s, None, {}, context=STILL))(P, shown)
    assert not np.asarray(mixed)[~valid].any()


@pytest.mark.parametrize("resets", ["label", "item"])
def test_dynamic_descriptions_tell_what_spans_do(resets):
    build, p = made(resets=resets)
    plain = Stream(jnp.asarray(X), spans=SPANS)
    told = {
        "label": jnp.broadcast_to(plain.labels(), (2, 7)),
        "item": jnp.broadcast_to(plain.items(), (2, 7)),
    }
    one, other = run(build, p), run(build, p, **told)
    np.testing.assert_allclose(one.stream.values, other.stream.values, **TIGHT)


def test_padding_within_does_not_matter_to_what_stands_after():
    """Nor to readout tokens, which the scan meets after it."""
    p, spans = Q, (Span("a", 1, readout=True), Span("a", 5), Span("b", 3))
    mask = np.asarray([[1, 1, 1, 1, 0, 0, 1, 1, 1]] * 2, bool)
    longer = np.zeros((2, 9, 8))
    longer[:, mask[0]] = X
    short = (Span("a", 1, readout=True), Span("a", 3), Span("b", 3))
    one = run(CAUSAL, p, x=longer, mask=jnp.asarray(mask), spans=spans).stream.values
    other = run(CAUSAL, p, spans=short).stream.values
    np.testing.assert_allclose(one[:, mask[0]], other, **TIGHT)


def test_nothing_to_begin_at_costs_nothing():
    one = Stream(jnp.asarray(X), spans=(Span("a", 7),))
    assert all(Marks.of(one, resets) is None for resets in RESETS)


def test_extra_tokens_are_met_first_where_causal():
    """And so the future reaches no token by way of them; they come back in their places."""
    tokens = Stream(Y, spans=(Span("new", 2),))
    out = run(CAUSAL, Q, Edit(tokens=tokens))
    found = np.concatenate([out.stream.values, out.extras[0].values], axis=1)
    order = [7, 8, 1, 2, 3, 4, 5, 6, 0]
    both = [np.concatenate(xy)[order] for xy in zip(X, Y, strict=True)]
    by_hand = [due(Q, x, sizes=(2, 4, 2, 1)) for x in both]
    np.testing.assert_allclose(found[:, order], by_hand, **TIGHT)


def test_extra_tokens_are_met_last_where_not():
    tokens = Stream(Y, spans=(Span("new", 2),))
    out = run(BOTH, P, Edit(tokens=tokens))
    found = np.concatenate([out.stream.values, out.extras[0].values], axis=1)
    both = [np.concatenate(xy) for xy in zip(X, Y, strict=True)]
    by_hand = [due(P, x, sizes=(1, 4, 2, 2)) for x in both]
    np.testing.assert_allclose(found, by_hand, **TIGHT)


def times_w(stream):
    return stream.with_(values=stream.values @ W)


def form(x, *, mix=lambda n, y: y, normal=lambda n: n, then=lambda x: x, p=P):
    """The block of one sample; hooks change what its mixer gives."""
    n = normal(norm(p, "scan_norm", x))
    x = then(x + mix(n, reference.mixer(p, "ssd", n, sizes=(1, 4, 2))))
    return x + mlp(p, "mlp", norm(p, "mlp_norm", x))


B = at(5, 6)[:, None]
"""Tokens of the label b."""
HOOKS = {
    "skip": (
        Edit(skip={"attention": ("b",)}),
        lambda x: form(x, mix=lambda n, y: np.where(B, 0, y)),
    ),
    "skip all": (Edit(skip={"attention": None}), lambda x: form(x, mix=lambda n, y: 0 * y)),
    "replace": (
        Edit(replace={"attention": Branch(times_w, ("b",))}),
        lambda x: form(x, mix=lambda n, y: np.where(B, n @ W, y)),
    ),
    "residual": (
        Edit(residual={"attention": Branch(times_w)}),
        lambda x: form(x, mix=lambda n, y: y + n @ W),
    ),
    "then": (
        Edit(then={"attention": Branch(times_w, ("b",))}),
        lambda x: form(x, then=lambda x: x + np.where(B, x @ W, 0)),
    ),
    "norm": (
        Edit(norm={"attention": NormDelta(W[0], W[1])}),
        lambda x: form(
            x,
            p={
                **P,
                "scan_norm.scale": P["scan_norm.scale"] + W[0],
                "scan_norm.bias": P["scan_norm.bias"] + W[1],
            },
        ),
    ),
}


@pytest.mark.parametrize("name", HOOKS)
def test_hooks(name):
    edit, by_hand = HOOKS[name]
    found = run(BOTH, P, edit).stream.values
    np.testing.assert_allclose(found, [by_hand(x) for x in X], **TIGHT)


@pytest.mark.parametrize("name", ["x", "z", "b", "c", "dt", "out"])
def test_weight_deltas(name):
    kernel = P[f"ssd.{name}.kernel"]
    inputs = 16 if name == "out" else 8
    a = RNG.normal(size=(inputs, 2))
    b = RNG.normal(size=(2, kernel.size // inputs))
    low_rank = LowRank(a, b, 0.5)
    found = run(BOTH, P, Edit(weights={f"ssd.{name}": low_rank})).stream.values
    p = {**P, f"ssd.{name}.kernel": kernel + 0.5 * (a @ b).reshape(kernel.shape)}
    np.testing.assert_allclose(found, [due(p, x) for x in X], **TIGHT)


def test_hooks_that_a_scan_cannot_obey_are_refused():
    zeros = jnp.zeros((2, 1, 2, 4))
    keys = KeyValue(zeros, zeros, Stream(jnp.zeros((2, 1, 8)), spans=(Span("k", 1),)))
    for edit in (Edit(keys_values=keys), Edit(mask=lambda q, k: jnp.ones((7, 7), bool))):
        with pytest.raises(FusekitError, match="a layer that scans has no keys"):
            run(BOTH, P, edit)


def test_in_bfloat16_it_is_near_float64():
    x = jnp.asarray(X, jnp.bfloat16)
    found = run(BOTH, P, x=x, context=Context(dtype=jnp.bfloat16)).stream.values
    assert found.dtype == jnp.bfloat16
    by_hand = np.stack([due(P, one) for one in np.asarray(x, np.float64)])
    gap = np.linalg.norm(np.asarray(found, np.float64) - by_hand) / np.linalg.norm(by_hand)
    assert gap < 1e-2


def test_the_reference_runs_where_it_is_asked_for():
    found = {}
    for kernel in ("auto", "reference"):
        context = Context(kernel=kernel, device=jax.devices()[0])
        jaxpr = jax.make_jaxpr(lambda x, c=context: run(CAUSAL, Q, x=x, context=c).stream.values)
        with float64():
            found[kernel] = str(jaxpr(X)).count("scan[")
    assert found == {"auto": 0, "reference": 1}


def test_what_begins_as_published():
    """dt between 0.001 and 0.1, A between -16 and -1, D one."""
    block = ScanBlock("ssd", 64, 64, scan=ScanSettings(), hidden=4, rngs=nnx.Rngs(0))
    way = block.ssd.forward
    dt = np.log1p(np.exp(np.asarray(way.dt_bias[...], np.float64)))
    decay = np.exp(np.asarray(way.a_log[...], np.float64))
    for found, low, high in ((dt, 1e-3, 1e-1), (decay, 1.0, 16.0)):
        assert found.min() > low * 0.999
        assert found.max() < high * 1.001
        assert found.max() > found.min() + 0.8 * (high - low)
    np.testing.assert_array_equal(way.d[...], 1.0)

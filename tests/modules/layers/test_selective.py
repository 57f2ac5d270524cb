"""The block of Mamba-1, against float64 NumPy: both ways and one, resets, absent tokens, deltas."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.layered import Edit, Edits, LowRank
from fusekit.stream import Span, Stream
from fusekit_modules.layers.scan import ScanSettings
from fusekit_modules.layers.scan_block import ScanBlock
from fusekit_modules.ops.dispatch import BackendError
from tests.modules.layers.harness import STILL, TIGHT, check_gradients, float64, randomised
from tests.reference import selective as reference

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 7, 8))
Y = RNG.normal(size=(2, 2, 8))
SPANS = (Span("a", 1, readout=True), Span("a", 4, items=2), Span("b", 2))
SMALL = {"states": 3, "rank": 2, "kernel": 3}
V5E = SimpleNamespace(platform="tpu", device_kind="TPU v5 lite")


def made(*, causal=False, readouts=0, resets=None, dtype="float64"):
    return randomised(
        ScanBlock(
            "selective",
            8,
            2,
            scan=ScanSettings(**SMALL, resets=resets),
            hidden=6,
            causal=causal,
            readouts=readouts,
            rngs=nnx.Rngs(0),
        ),
        dtype=dtype,
    )


BOTH, P = made()
CAUSAL, Q = made(causal=True, readouts=1)


def run(build, p, *edits, x=X, context=STILL, spans=SPANS, **stream):
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


def test_in_float32_it_is_near_float64():
    x = jnp.asarray(X, jnp.float32)
    found = run(BOTH, P, x=x, context=Context(dtype=jnp.float32)).stream.values
    assert found.dtype == jnp.float32
    assert gap(found, x) < 1e-5


def test_in_bfloat16_it_is_near_float64():
    x = jnp.asarray(X, jnp.bfloat16)
    found = run(BOTH, P, x=x, context=Context(dtype=jnp.bfloat16)).stream.values
    assert found.dtype == jnp.bfloat16
    assert gap(found, x) < 1e-2


def gap(found, x):
    by_hand = np.stack([due(P, one) for one in np.asarray(x, np.float64)])
    return np.linalg.norm(np.asarray(found, np.float64) - by_hand) / np.linalg.norm(by_hand)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients(masked):
    """Of all parameters and tokens; `masked`: with a segment's end and a token that is absent."""
    spans, kept, begins, more = (Span("a", 4),), np.ones(4, bool), None, {}
    if masked:
        kept = np.asarray([1, 0, 1, 1], bool)
        begins = (at(2, size=4), at(0, size=4))
        more = {"mask": jnp.asarray(kept[None]), "segment": jnp.asarray([[0, 0, 1, 1]])}

    def ours(p):
        p = dict(p)
        x = p.pop("tokens")
        return BOTH(p)(Stream(x, spans=spans, **more), context=STILL).stream.values[:, kept]

    def numpy(p):
        done = [reference.block(p, "", x, there=kept, begins=begins) for x in p["tokens"]]
        return np.stack(done)[:, kept]

    check_gradients(ours, numpy, {**P, "tokens": X[:1, :4]})


def test_a_causal_scan_meets_extra_tokens_first_and_readout_tokens_last():
    out = run(CAUSAL, Q, Edit(tokens=Stream(Y, spans=(Span("new", 2),))))
    found = np.concatenate([out.stream.values, out.extras[0].values], axis=1)
    order = [7, 8, 1, 2, 3, 4, 5, 6, 0]
    both = [np.concatenate(xy)[order] for xy in zip(X, Y, strict=True)]
    by_hand = [due(Q, x, sizes=(2, 4, 2, 1)) for x in both]
    np.testing.assert_allclose(found[:, order], by_hand, **TIGHT)


@pytest.mark.parametrize(
    ("resets", "places"),
    [("segment", ((), ())), ("label", ((5,), (4,))), ("item", ((3, 5), (2, 4)))],
)
def test_states_begin_anew(resets, places):
    build, p = made(resets=resets)
    begins = tuple(at(*one) for one in places)
    found = run(build, p).stream.values
    np.testing.assert_allclose(found, [due(p, x, begins=begins) for x in X], **TIGHT)


def test_segments_part_and_padding_is_passed_over():
    segment = jnp.asarray([[0, 0, 0, 9, 1, 1, 1], [0, 0, 0, 0, 0, 1, 2]])
    mask = np.asarray([[1, 1, 1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 1, 1]], bool)
    found = run(BOTH, P, segment=segment, mask=jnp.asarray(mask)).stream.values
    begins = [(at(4), at(2)), (at(5, 6), at(4, 5))]
    for n, x in enumerate(X):
        by_hand = due(P, x, there=mask[n], begins=begins[n])
        np.testing.assert_allclose(found[n][mask[n]], by_hand[mask[n]], **TIGHT)


def test_what_is_absent_changes_nothing_and_gets_nothing_from_the_scan():
    """Neither values nor gradients, bit for bit; the second sample is absent as a whole."""
    mask = jnp.asarray([[1, 1, 1, 0, 1, 0, 0], [1] * 7], bool)
    presence = jnp.asarray([True, False])
    valid = np.asarray(mask & presence[:, None])

    def mixed(p, x):
        shown = Stream(x, mask, presence, spans=SPANS)
        return BOTH(p).selective(shown, None, {}, context=STILL)

    def total(p, x):
        y = mixed(p, x)
        return jnp.sum(y * y), y

    found = []
    with float64():
        for filler in (0.0, 1e30, np.nan, np.inf):
            x = jnp.asarray(np.where(valid[..., None], X, filler))
            found.append(jax.jit(jax.grad(total, has_aux=True, argnums=(0, 1)))(P, x))
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)
    (_, by_x), y = found[0]
    assert not np.asarray(y)[~valid].any()
    assert not np.asarray(by_x)[~valid].any()
    assert np.asarray(y)[valid].all()


@pytest.mark.parametrize("name", ["x", "z", "select", "dt", "out"])
def test_weight_deltas(name):
    kernel = P[f"selective.{name}.kernel"]
    a, b = RNG.normal(size=(kernel.shape[0], 2)), RNG.normal(size=(2, kernel.shape[1]))
    found = run(BOTH, P, Edit(weights={f"selective.{name}": LowRank(a, b, 0.5)})).stream.values
    p = {**P, f"selective.{name}.kernel": kernel + 0.5 * a @ b}
    np.testing.assert_allclose(found, [due(p, x) for x in X], **TIGHT)


def test_sizes_of_projections_are_those_of_the_parameters():
    block = ScanBlock("selective", 40, 2, scan=ScanSettings(), hidden=4, rngs=nnx.Rngs(0))
    mixer = block.selective
    sizes = type(mixer).projections(40, 2, ScanSettings())
    assert sizes == {n: getattr(mixer, n).kernel.shape for n in sizes}
    assert (mixer.rank, mixer.states, sizes["x"]) == (3, 16, (40, 80))


def test_what_begins_as_published():
    """dt evenly between 0.001 and 0.1 by its logarithm, A of -1 to -16, D one."""
    block = ScanBlock("selective", 256, 4, scan=ScanSettings(), hidden=4, rngs=nnx.Rngs(0))
    way = block.selective.forward
    dt = np.log10(np.log1p(np.exp(np.asarray(way.dt_bias[...], np.float64))))
    assert dt.min() > -3.001
    assert dt.max() < -0.999
    np.testing.assert_allclose(np.quantile(dt, [0.25, 0.5, 0.75]), [-2.5, -2, -1.5], atol=0.1)
    decay = np.exp(np.asarray(way.a_log[...], np.float64))
    np.testing.assert_allclose(decay, np.tile(np.arange(1, 17), (512, 1)), rtol=1e-6)
    np.testing.assert_array_equal(way.d[...], 1.0)
    kernel = np.abs(block.selective.dt.kernel[...])
    assert 0.24 < kernel.max() <= 0.25  # 16 ** -0.5


def taken(x=X, **asked):
    """What a block of one way computes, and its choices."""
    build, p = made(causal=True, readouts=1, dtype="float32")
    context = Context(path="it", dtype=jnp.float32, **asked)
    context.collector.choices = {}
    given = Stream(jnp.asarray(x, jnp.float32), spans=SPANS)

    def call(x):
        return build(p)(given.with_(values=x), context=context).stream.values

    text = str(jax.make_jaxpr(call)(given.values))
    return text, tuple(context.collector.choices)


def test_kernels_run_where_they_are_asked_for():
    """By the one rule: `auto` leaves alone what was not measured."""
    text, (note,) = taken(device=V5E)
    assert note.operation == "selective scan"
    assert note.backend == "xla"
    assert note.why == "not tpu: it has not been measured on a TPU"
    assert "pallas_call" not in text
    text, (note,) = taken(device=V5E, kernel="pallas", named=True)
    assert note.backend == "tpu"
    assert "selective_scan_forward" in text
    text, (note,) = taken(device=V5E, kernel="reference")
    assert note.backend == "reference"


def test_kernels_that_cannot_are_an_error_of_a_component_by_name():
    with pytest.raises(BackendError, match=r"it: selective scan cannot use `kernel: pallas`"):
        taken(device=jax.devices()[0], kernel="pallas", named=True)

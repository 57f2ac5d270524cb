"""Every hook of a block: an edit that wants nothing changes nothing, one that wants something
does what NumPy says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import FusekitError
from fusekit.layered import Branch, Edit, Edits, KeyValue, LowRank, NormDelta
from fusekit.stream import Span, Stream, label_id
from fusekit_modules.layers.block import Block
from tests.modules.layers.harness import STILL, TIGHT, float64, randomised
from tests.reference import transformer as reference

RNG = np.random.default_rng(0)
SPANS = (Span("a", 1, readout=True), Span("a", 2), Span("b", 3))
A, B = slice(0, 3), slice(3, 6)
BUILD, P = randomised(Block(4, 2, hidden=6, rngs=nnx.Rngs(0)))
X = RNG.normal(size=(2, 6, 4))
Y = RNG.normal(size=(2, 3, 4))
W = RNG.normal(size=(4, 4))
IDS = [label_id(s.label) for s in SPANS for _ in range(s.size)]


def run(*edits: Edit, dynamic: bool = False, mask=None, build=BUILD, p=P):
    with float64():
        label = jnp.asarray(IDS, "int32") if dynamic else None
        stream = Stream(jnp.asarray(X), mask=mask, label=label, spans=SPANS)
        return build(p)(stream, Edits(edits), context=STILL)


def times_w(stream: Stream) -> Stream:
    return stream.with_(values=stream.values @ W)


def summed(stream: Stream) -> Stream:
    """Every token gets the sum of the valid ones: shows which tokens a branch is given."""
    values = stream.values
    if stream.mask is not None:
        values = jnp.where(stream.mask[..., None], values, 0)
    return stream.with_(values=jnp.broadcast_to(values.sum(1, keepdims=True), values.shape))


def form(
    x,
    *,
    keys=None,
    p=P,
    allowed=None,
    attend=lambda n, y: y,
    feed=lambda n, y: y,
    normal=lambda name, x, n: n,
    then=lambda name, x: x,
):
    """The block of one sample; the hooks change what the sublayers give."""
    n = normal("attention_norm", x, reference.norm(p, "attention_norm", x))
    source = n if keys is None else np.concatenate([n, keys])
    allowed = np.ones((len(x), len(source)), bool) if allowed is None else allowed
    y = np.stack(
        [
            reference.attention(p, "attention", n[i : i + 1], source[allowed[i]])[0]
            for i in range(len(x))
        ]
    )
    x = then("attention", x + attend(n, y))
    n = normal("mlp_norm", x, reference.norm(p, "mlp_norm", x))
    return then("mlp", x + feed(n, reference.mlp(p, "mlp", n)))


def same(got, want):
    np.testing.assert_allclose(got.stream.values, np.stack(want), **TIGHT)


def pick(rows, value, other):
    out = np.array(other)
    out[rows] = value[rows] if np.shape(value) == np.shape(other) else value
    return out


ZERO = np.zeros((4, 2))
IDENTITY = {
    "nothing": Edit(),
    "mask": Edit(mask=lambda q, k: jnp.ones((q.length, k.length), bool)),
    "norm": Edit(norm={"attention": NormDelta(np.zeros(4), np.zeros(4))}),
    "skip": Edit(skip={"mlp": (), "attention": ("other",)}),
    "replace": Edit(replace={"attention": Branch(times_w, ("other",))}),
    "residual": Edit(residual={"mlp": Branch(lambda s: s.with_(values=s.values * 0))}),
    "then": Edit(then={"attention": Branch(lambda s: s.with_(values=s.values * 0))}),
    "weights": Edit(weights={"attention.query": LowRank(ZERO, ZERO.T)}),
    "keys_values": Edit(
        keys_values=Stream(jnp.ones((2, 3, 4)), mask=jnp.zeros((2, 3), bool), spans=(Span("m", 3),))
    ),
}


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_edit_that_wants_nothing(name, dynamic):
    out = run(IDENTITY[name], dynamic=dynamic)
    same(out, [form(x) for x in X])
    assert out.extras == (None,)


def test_tokens_are_processed_with_the_streams_own():
    first, second = (
        Stream(Y[:, :1], spans=(Span("m", 1),)),
        Stream(Y[:, 1:], spans=(Span("n", 2),)),
    )
    out = run(Edit(tokens=first), Edit(), Edit(tokens=second))
    want = np.stack([form(np.concatenate([x, y])) for x, y in zip(X, Y, strict=True)])
    np.testing.assert_allclose(out.stream.values, want[:, :6], **TIGHT)
    assert out.extras[1] is None
    np.testing.assert_allclose(out.extras[0].values, want[:, 6:7], **TIGHT)
    np.testing.assert_allclose(out.extras[2].values, want[:, 7:], **TIGHT)
    assert out.extras[2].spans == second.spans


def test_tokens_have_their_own_validity():
    """Where the stream is absent its extra tokens read one another only, and are read."""
    extra = Stream(Y, presence=jnp.array([True, False]), spans=(Span("m", 3),))
    with float64():
        stream = Stream(jnp.asarray(X), presence=jnp.array([False, True]), spans=SPANS)
        out = BUILD(P)(stream, Edits((Edit(tokens=extra),)), context=STILL)
    np.testing.assert_allclose(out.extras[0].values[0], form(Y[0]), **TIGHT)
    np.testing.assert_allclose(out.stream.values[1], form(X[1]), **TIGHT)
    assert out.stream.mask is None


def test_keys_values_of_tokens_and_projected():
    stream = Stream(Y, mask=jnp.array([[1, 1, 0], [0, 0, 0]], bool), spans=(Span("m", 3),))
    keys = [reference.norm(P, "attention_norm", Y[0, :2]), np.zeros((0, 4))]
    want = [form(x, keys=k) for x, k in zip(X, keys, strict=True)]
    same(run(Edit(keys_values=stream)), want)
    with float64():
        projected = BUILD(P).keys_values(stream)
    assert isinstance(projected, KeyValue)
    same(run(Edit(keys_values=projected)), want)
    twice = [form(x, keys=np.concatenate([k, k])) for x, k in zip(X, keys, strict=True)]
    same(run(Edit(keys_values=projected), Edit(keys_values=stream)), twice)


def test_masks_intersect_and_see_labels_of_all_tokens():
    extra = Stream(Y, spans=(Span("m", 3),))

    def not_the_past(q, k):
        return q.positions()[:, None] <= k.positions()[None, :]

    def no_b(q, k):
        return jnp.broadcast_to(k.labels() != label_id("b"), (q.length, k.length))

    out = run(Edit(tokens=extra, mask=not_the_past), Edit(mask=no_b))
    positions = np.array([0, 0, 1, 0, 1, 2, 0, 1, 2])
    allowed = (positions[:, None] <= positions) & (np.arange(9) // 3 != 1)
    joined = np.concatenate([X, Y], 1)
    want = np.stack([form(x, allowed=allowed) for x in joined])
    np.testing.assert_allclose(out.stream.values, want[:, :6], **TIGHT)
    np.testing.assert_allclose(out.extras[0].values, want[:, 6:], **TIGHT)


def test_a_row_that_rules_leave_nothing_takes_no_attention():
    out = run(Edit(mask=lambda q, k: jnp.zeros((q.length, k.length), bool)))
    same(out, [form(x, attend=lambda n, y: 0 * y) for x in X])


@pytest.mark.parametrize("sublayer", ["attention", "mlp"])
def test_norm_deltas_add(sublayer):
    s, t = RNG.normal(size=(2, 2, 4))
    edit = Edit(norm={sublayer: NormDelta(s, t)})
    shared = Edit(norm={sublayer: NormDelta(s[0], t[0])})
    want = []
    for i, x in enumerate(X):
        name = f"{sublayer}_norm"
        scale, bias = P[f"{name}.scale"] + s[i] + s[0], P[f"{name}.bias"] + t[i] + t[0]
        want.append(form(x, p={**P, f"{name}.scale": scale, f"{name}.bias": bias}))
    same(run(edit, shared), want)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("labels", [None, ("b",), ("a", "b"), ("a",)])
def test_replace(labels, dynamic):
    rows = np.isin([s.label for s in SPANS for _ in range(s.size)], labels or ("a", "b"))

    def swap(n, y):
        return pick(rows, np.broadcast_to(n[rows].sum(0), y[rows].shape), y)

    for name in ("attention", "mlp"):
        key = {"attention": "attend", "mlp": "feed"}[name]
        out = run(Edit(replace={name: Branch(summed, labels)}), dynamic=dynamic)
        same(out, [form(x, **{key: swap}) for x in X])


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("labels", [None, ("b",), ("a",)])
def test_skip(labels, dynamic):
    rows = np.isin([s.label for s in SPANS for _ in range(s.size)], labels or ("a", "b"))
    for name, key in (("attention", "attend"), ("mlp", "feed")):
        out = run(Edit(skip={name: labels}), dynamic=dynamic)
        same(out, [form(x, **{key: lambda n, y: pick(rows, 0 * y, y)}) for x in X])


@pytest.mark.parametrize("dynamic", [False, True])
def test_skips_unite_and_go_before_replace(dynamic):
    out = run(
        Edit(skip={"mlp": ("a",)}),
        Edit(skip={"mlp": ("b",)}, replace={"mlp": Branch(times_w)}),
        dynamic=dynamic,
    )
    same(out, [form(x, feed=lambda n, y: 0 * y) for x in X])


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("key", ["norm", "attention_norm", "mlp_norm"])
def test_norms_are_replaced_and_skipped(key, dynamic):
    names = ("attention_norm", "mlp_norm") if key == "norm" else (key,)

    def normal(name, x, n):
        if name not in names:
            return n
        n = np.array(n)
        n[A], n[B] = x[A], x[B] @ W
        return n

    edit = Edit(skip={key: ("a",)}, replace={key: Branch(times_w, ("b",))})
    same(run(edit, dynamic=dynamic), [form(x, normal=normal) for x in X])


@pytest.mark.parametrize("dynamic", [False, True])
def test_branches_after_a_sublayer_follow_one_another(dynamic):
    """The second sees what the first made; of its own tokens only, if it names labels."""
    out = run(
        Edit(then={"attention": Branch(times_w)}),
        Edit(then={"attention": Branch(summed, ("b",)), "mlp": Branch(times_w, ("a",))}),
        dynamic=dynamic,
    )

    def then(name, x):
        if name == "mlp":
            return np.concatenate([x[A] + x[A] @ W, x[B]])
        x = x + x @ W
        return np.concatenate([x[A], x[B] + x[B].sum(0)])

    same(out, [form(x, then=then) for x in X])


@pytest.mark.parametrize("dynamic", [False, True])
def test_residual_branches_add_to_skipped_tokens_too(dynamic):
    edits = (
        Edit(skip={"attention": ("b",)}, residual={"attention": Branch(times_w, ("b",))}),
        Edit(residual={"attention": Branch(times_w)}),
        Edit(residual={"mlp": Branch(summed, ("a",))}),
    )

    def attend(n, y):
        y = np.array(y)
        y[B] = n[B] @ W
        return y + n @ W

    def feed(n, y):
        y = np.array(y)
        y[A] += n[A].sum(0)
        return y

    same(run(*edits, dynamic=dynamic), [form(x, attend=attend, feed=feed) for x in X])


@pytest.mark.parametrize("per_sample", [False, True])
def test_weights_of_every_projection(per_sample):
    names = [f"attention.{n}" for n in ("query", "key", "value", "out")] + ["mlp.up", "mlp.down"]
    edits, want = [], [dict(P) for _ in X]
    for name in names:
        kernel = P[f"{name}.kernel"]
        o = kernel.shape[-1] if name.startswith("mlp") or name.endswith("out") else 4
        d = kernel.size // o
        a, b = RNG.normal(size=(2, d, 2)), RNG.normal(size=(2, 2, o))
        given = LowRank(a, b, 0.3) if per_sample else LowRank(a[0], b[0], 0.3)
        edits += [Edit(weights={name: given})] * 2
        for i, p in enumerate(want):
            row = i if per_sample else 0
            p[f"{name}.kernel"] = kernel + 0.6 * (a[row] @ b[row]).reshape(kernel.shape)
    same(run(*edits), [form(x, p=p) for x, p in zip(X, want, strict=True)])


def test_the_stream_that_enters_may_be_another():
    with float64():
        stream = Stream(jnp.asarray(X * 2), spans=SPANS)
    same(run(Edit(stream=stream)), [form(2 * x) for x in X])


def test_extra_tokens_leave_the_streams_randomness_alone():
    build, p = randomised(Block(4, 2, hidden=6, dropout=0.5, rngs=nnx.Rngs(0)))
    context = Context("train", jax.random.key(3), dtype=jnp.float64)
    extra = Stream(Y, mask=jnp.zeros((2, 3), bool), spans=(Span("m", 3),))
    with float64():
        stream = Stream(jnp.asarray(X), spans=SPANS)
        plain = build(p)(stream, context=context).stream.values
        edited = build(p)(stream, Edits((Edit(tokens=extra),)), context=context).stream.values
    np.testing.assert_allclose(edited, plain, **TIGHT)


def test_contradictions_are_refused():
    with pytest.raises(FusekitError, match="two operators replace the same mlp"):
        run(Edit(replace={"mlp": Branch(times_w, ("a",))}), Edit(replace={"mlp": Branch(times_w)}))
    with pytest.raises(FusekitError, match="replace the same mlp norm"):
        run(
            Edit(replace={"norm": Branch(times_w)}),
            Edit(replace={"mlp_norm": Branch(times_w)}),
        )
    with pytest.raises(FusekitError, match="'feed'"):
        run(Edit(skip={"feed": None}))
    with pytest.raises(FusekitError, match=r"'mlp\.gate'"):
        run(Edit(weights={"mlp.gate": LowRank(ZERO, ZERO.T)}))
    with pytest.raises(FusekitError, match="tokens of width 5"):
        run(Edit(tokens=Stream(jnp.ones((2, 1, 5)), spans=(Span("m", 1),))))


def test_gradients_flow_through_every_hook_and_are_finite():
    extra = Stream(jnp.asarray(Y, jnp.float32), mask=jnp.zeros((2, 3), bool), spans=(Span("m", 3),))
    edit = Edit(
        tokens=extra,
        keys_values=extra,
        mask=lambda q, k: jnp.zeros((q.length, k.length), bool),
        residual={"attention": Branch(times_w, ("b",))},
        replace={"mlp": Branch(times_w, ("a",))},
    )
    module = Block(4, 2, hidden=6, rngs=nnx.Rngs(0))
    graph, params = nnx.split(module)

    def loss(params, x):
        stream = Stream(x, mask=jnp.zeros((2, 6), bool), spans=SPANS)
        out = nnx.merge(graph, params)(stream, Edits((edit,)), context=Context())
        return jnp.sum(jnp.square(out.stream.values))

    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, jnp.asarray(X, jnp.float32))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))

"""`attend` against loops over tokens, and what it refuses."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import SpecError, WiringError
from fusekit.layered import Edit, Edits
from fusekit.stream import Span, Stream, label_id, sequence
from fusekit_modules.encoders.transformer import TransformerSpec
from fusekit_modules.layers.attend import WORDS, check_attend
from fusekit_modules.layers.block import Block
from fusekit_modules.layers.mask_rule import Rule, as_added
from tests.modules.fusion.harness import GARBAGE, QUICK
from tests.modules.layers.harness import STILL, TIGHT, float64, randomised
from tests.reference import transformer as reference

LABELS = ("a", "b", "c")
BATCH, QUERIES, KEYS = 2, 6, 7


@dataclass(frozen=True)
class Token:
    """What a rule may know of a token."""

    label: str
    item: int
    segment: int
    position: int
    data: bool
    valid: bool
    index: int


def draw(rng, length, *, dynamic, readout):
    """A stream, and its tokens by sample."""
    cuts = sorted(rng.choice(np.arange(1, length), size=2, replace=False))
    sizes = np.diff([0, *cuts, length])
    spans = [Span(str(rng.choice(LABELS)), int(n), items=int(rng.integers(1, 3))) for n in sizes]
    if readout:
        spans[0] = Span(str(rng.choice([*LABELS, "readout"])), int(sizes[0]), readout=True)
    told = {
        "item": np.concatenate([np.arange(s.size) * s.items // s.size for s in spans]),
        "segment": np.zeros(length, int),
        "position": np.concatenate([np.arange(s.size) for s in spans]),
    }
    names = np.concatenate([[s.label] * s.size for s in spans])
    label = np.tile(names, (BATCH, 1))
    told = {name: np.tile(row, (BATCH, 1)) for name, row in told.items()}
    mask = rng.random((BATCH, length)) < 0.7
    given = {}
    if dynamic:
        label = rng.choice(names, label.shape)
        told = {
            "item": rng.integers(0, 3, (BATCH, length)),
            "segment": np.sort(rng.integers(0, 2, (BATCH, length))),
            "position": rng.integers(0, 4, (BATCH, length)),
        }
        ids = np.vectorize(label_id)(label)
        given = {k: jnp.asarray(v, "int32") for k, v in {**told, "label": ids}.items()}
    data = np.concatenate([[not s.readout] * s.size for s in spans])
    values = jnp.zeros((BATCH, length, 0))
    stream = Stream(values, jnp.asarray(mask), spans=tuple(spans), **given)
    columns = (told["item"], told["segment"], told["position"])
    tokens = [
        [
            Token(str(label[b, i]), *(int(c[b, i]) for c in columns), data[i], mask[b, i], i)
            for i in range(length)
        ]
        for b in range(BATCH)
    ]
    return stream, tokens


def draw_attend(rng):
    def words():
        found = tuple(str(w) for w in rng.choice(WORDS, size=rng.integers(1, 3)))
        return found[0] if len(found) == 1 else found

    def sees():
        kind = rng.integers(3)
        if kind == 0:
            return str(rng.choice([*LABELS, *WORDS]))
        if kind == 1:
            return tuple(str(x) for x in rng.choice([*LABELS, *WORDS], size=rng.integers(0, 3)))
        return {str(label): words() for label in rng.choice(LABELS, size=2, replace=False)}

    if rng.random() < 0.5:
        found = sees()
        if not isinstance(found, dict):
            return found
    return {label: sees() for label in LABELS}


def word_allows(word, q, k, keys, own):
    if word in ("all", "none"):
        return word == "all"
    if not k.data:
        return False
    if word == "causal":
        same = own and k.index < QUERIES
        tie = k.position == q.position and not (same and k.index > q.index)
        return k.position < q.position or tie
    if word == "item":
        return k.label == q.label and k.item == q.item
    before = [
        other
        for other in keys
        if other.data
        and other.valid
        and other.label == k.label
        and other.segment == q.segment
        and other.position <= q.position
    ]
    if not before:
        return False
    last = max(before, key=lambda other: (other.position, other.item))
    return k.item == last.item


def sees(attend, q, k, keys, own, others):
    """One query and one key."""
    if q.segment != k.segment:
        return False
    if own and k.index >= QUERIES and k.label not in others:
        return True
    if not q.data:
        return True
    if isinstance(attend, dict):
        if q.label not in attend:
            return False
        attend = attend[q.label]
    if isinstance(attend, dict):
        words = attend.get(k.label, ())
        words = (words,) if isinstance(words, str) else words
        return any(word_allows(word, q, k, keys, own) for word in words)
    for one in (attend,) if isinstance(attend, str) else attend:
        if word_allows(one, q, k, keys, own) if one in WORDS else one == k.label:
            return True
    return False


def compare(attend, queries, keys, tokens, own, others=()):
    got = Rule.of(attend, own=own, others=others)(queries, keys)
    readers, read = tokens
    want = [
        [[sees(attend, q, k, read[b], own, others) for k in read[b]] for q in readers[b]]
        for b in range(BATCH)
    ]
    shown = np.broadcast_to(got, (BATCH, *got.shape[-2:]))
    np.testing.assert_array_equal(shown, want, err_msg=str(attend))


@pytest.mark.parametrize("dynamic", [False, True])
def test_one_stream_against_loops(dynamic):
    rng = np.random.default_rng(dynamic)
    for _ in range(25):
        stream, tokens = draw(rng, QUERIES, dynamic=dynamic, readout=rng.random() < 0.5)
        compare(draw_attend(rng), stream, stream, (tokens, tokens), True)


@pytest.mark.parametrize("dynamic", [False, True])
def test_two_streams_against_loops(dynamic):
    rng = np.random.default_rng(10 + dynamic)
    for _ in range(25):
        queries, readers = draw(rng, QUERIES, dynamic=dynamic, readout=rng.random() < 0.5)
        keys, read = draw(rng, KEYS, dynamic=rng.random() < 0.7, readout=rng.random() < 0.5)
        compare(draw_attend(rng), queries, keys, (readers, read), False)


def test_own_keys_and_those_of_others_against_loops():
    rng = np.random.default_rng(20)
    for _ in range(25):
        whole, tokens = draw(rng, KEYS, dynamic=True, readout=False)
        first = Stream(whole.values[:, :QUERIES], spans=(Span("a", QUERIES),))
        cut = {n: getattr(whole, n)[:, :QUERIES] for n in ("label", "item", "segment", "position")}
        readers = [row[:QUERIES] for row in tokens]
        others = tuple(str(x) for x in rng.choice(LABELS, size=rng.integers(0, 3), replace=False))
        compare(draw_attend(rng), first.with_(**cut), whole, (readers, tokens), True, others)


def test_by_hand():
    """Text reads its past and the last image before it; images read themselves."""
    spans = (Span("text", 3), Span("image", 4, items=2))
    stream = Stream(
        jnp.zeros((1, 7, 0)), position=jnp.asarray([1, 2, 4, 0, 0, 3, 3], "int32"), spans=spans
    )
    attend = {"text": {"text": "causal", "image": "latest"}, "image": "item"}
    want = [
        [1, 0, 0, 1, 1, 0, 0],
        [1, 1, 0, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 1],
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 1, 1],
    ]
    np.testing.assert_array_equal(Rule.of(attend)(stream, stream), np.array(want, bool))


def test_added_tokens_see_all_and_come_last():
    stream = Stream(jnp.zeros((1, 4, 0)), spans=(Span("a", 2), Span("b", 1), Span("extra", 1)))
    stream = as_added(stream, 3)
    got = np.asarray(Rule.of("causal")(stream, stream), int)
    np.testing.assert_array_equal(got, [[1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]])
    got = np.asarray(Rule.of(("causal", "extra"))(stream, stream), int)
    np.testing.assert_array_equal(got[:, 3], [1, 1, 1, 1])


RNG = np.random.default_rng(3)
SPANS = (Span("a", 2), Span("b", 3))
X, Y = RNG.normal(size=(2, 5, 4)), RNG.normal(size=(2, 2, 4))


def attended(p, x, y, allowed):
    """One sample through a block; `y` are further keys, which all read."""
    n = reference.norm(p, "attention_norm", x)
    source = np.concatenate([n, reference.norm(p, "attention_norm", y)])
    keys = np.concatenate([np.asarray(allowed, bool), np.ones((len(x), len(y)), bool)], 1)
    rows = [
        reference.attention(p, "attention", n[i : i + 1], source[keys[i]])[0] for i in range(len(x))
    ]
    mixed = x + np.stack(rows)
    return mixed + reference.mlp(p, "mlp", reference.norm(p, "mlp_norm", mixed))


def test_in_a_block():
    """Tokens of `a` see nothing and get exactly nothing; further keys are nobody's matter."""
    attend = {"a": (), "b": {"a": "all", "b": "causal"}}
    allowed = [[0] * 5, [0] * 5, [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    build, p = randomised(Block(4, 2, hidden=6, attend=attend, rngs=nnx.Rngs(0)))
    with float64():
        stream = Stream(jnp.asarray(X), spans=SPANS)
        memory = Stream(jnp.asarray(Y), spans=(Span("a", 2),))

        def both(p, stream, memory):
            block, edits = build(p), Edits((Edit(keys_values=memory),))
            runs = (block(stream, context=STILL), block(stream, edits, context=STILL))
            return [out.stream.values for out in runs]

        alone, more = jax.jit(both, compiler_options=QUICK)(p, stream, memory)
    for i, (x, y) in enumerate(zip(X, Y, strict=True)):
        np.testing.assert_allclose(alone[i], attended(p, x, y[:0], allowed), **TIGHT)
        np.testing.assert_allclose(more[i], attended(p, x, y, allowed), **TIGHT)
        nothing = x[:2] + reference.mlp(p, "mlp", reference.norm(p, "mlp_norm", x[:2]))
        np.testing.assert_allclose(alone[i, :2], nothing, **TIGHT)


def test_packed_segments_are_apart_without_any_rule():
    build, p = randomised(Block(4, 2, hidden=6, rngs=nnx.Rngs(0)))
    with float64():
        segment = jnp.asarray([0, 0, 1, 1, 1], "int32")
        packed = Stream(jnp.asarray(X), spans=SPANS, segment=segment)
        call = jax.jit(lambda p, x: build(p)(x, context=STILL), compiler_options=QUICK)
        out = call(p, packed).stream.values
    for i, x in enumerate(X):
        for part in (slice(0, 2), slice(2, 5)):
            np.testing.assert_allclose(out[i, part], reference.block(p, "", x[part]), **TIGHT)


def test_what_is_padded_is_not_told():
    """Contents, labels, items and positions of padding change nothing, bit for bit."""
    attend = {"a": "latest", "b": {"a": "latest", "b": "causal"}}
    block = Block(4, 2, hidden=6, attend=attend, rngs=nnx.Rngs(0))
    call = jax.jit(lambda stream: block(stream, context=Context()), compiler_options=QUICK)
    mask = np.array([[1, 0, 1, 1, 0], [1, 1, 0, 0, 1]], bool)
    rng = np.random.default_rng(0)
    plain = [np.tile([label_id(x) for x in "aabbb"], (2, 1))]
    plain += [np.tile(row, (2, 1)) for row in ([0, 1, 0, 0, 0], [0, 2, 1, 3, 4])]

    def run(fill, columns):
        values = np.where(mask[..., None], X, fill).astype("float32")
        names = ("label", "item", "position")
        given = {n: jnp.asarray(c, "int32") for n, c in zip(names, columns, strict=True)}
        stream = Stream(jnp.asarray(values), jnp.asarray(mask), spans=SPANS, **given).clean()
        return np.asarray(call(stream).stream.values)[mask]

    for garbage in GARBAGE:
        wild = [np.where(mask, column, rng.integers(0, 9, column.shape)) for column in plain]
        np.testing.assert_array_equal(run(0.0, plain), run(garbage, wild))


def test_what_does_not_fit_is_refused():
    stream = sequence(5, 4, spans=SPANS)
    good = ["all", "a", ("causal", "item"), {"a": (), "b": {"a": "latest"}}, {"a": "b", "b": "b"}]
    for attend in good:
        check_attend(attend, [stream], [stream])
    for attend, message, field, near in (
        ("casual", "no token that is read", ("attend",), ("causal",)),
        ({"a": "all"}, "not said what tokens of b see", ("attend",), ()),
        ({"a": "all", "b": "all", "bb": "all"}, "no token that reads", ("attend", "bb"), ("b",)),
        ({"a": {"aa": "all"}, "b": "all"}, "no token that is read", ("attend", "a", "aa"), ("a",)),
        (("all", "aa"), "no token that is read", ("attend", 1), ("a",)),
    ):
        with pytest.raises(WiringError, match=message) as error:
            check_attend(attend, [stream], [stream])
        assert error.value.problem.path == field
        assert set(near) <= set(error.value.problem.nearest)


def test_stacks_check_it():
    given = {"input": sequence(5, 4, spans=SPANS)}
    TransformerSpec(heads=2, attend={"a": "causal", "b": ["a", "causal"]}).infer(given)  # pyright: ignore
    with pytest.raises(WiringError, match="not said what tokens of a see"):
        TransformerSpec(heads=2, attend={"b": "causal"}).infer(given)
    with pytest.raises(WiringError, match="both say"):
        TransformerSpec(heads=2, attend="causal", causal=True).infer(given)
    with pytest.raises(WiringError, match="items of a"):
        TransformerSpec(heads=2).infer({"input": sequence(4, 4, spans=(Span("a", 4, items=2),))})
    with pytest.raises(SpecError, match=r"attend"):
        TransformerSpec(heads=2, attend={"a": {"b": "casual"}})  # pyright: ignore
    with pytest.raises(SpecError, match=r"attend"):
        TransformerSpec(heads=2, attend=3)  # pyright: ignore

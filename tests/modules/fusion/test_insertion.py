"""Tokens at the input of a stack, against float64 stacks that run over what is there."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.api import experiment
from fusekit.errors import ConfigError
from fusekit.graph import resolve
from fusekit.graph.node import Key
from fusekit.program import Program
from fusekit.stream import Span, Stream
from fusekit_modules.fusion._insert import Joined, insert
from tests.modules.fusion.harness import QUICK
from tests.reference.transformer import block, norm

HERE = {
    "image": np.array([True, False, True, False]),
    "audio": np.array([True, True, False, False]),
    "text": np.array([True, True, True, True]),
}
VALID = {"image": 2, "audio": 3, "text": 4}
"""How many tokens of each are valid in row 0; in the other rows one fewer."""
STACK = {"type": "transformer", "depth": 2, "width": 4, "heads": 2, "mlp_ratio": 1.0}
SEE = {"type": "projector", "inputs": ["image"], "into": "lm@input", "form": "linear"}
HEAR = {"type": "projector", "inputs": ["audio"], "into": "lm@input", "form": "linear"}
LM = {**STACK, "input": "batch.text", "readout": 1}


def declared(fusion, lm=LM, **more):
    widths = {"image": (3, 6), "audio": (4, 5), "text": (5, 4)}
    used = {name for one in fusion.values() for name in one.get("inputs", ())}
    return experiment(
        modalities={
            **{
                name: {"type": "features", "length": n, "width": d, "optional": True}
                for name, (n, d) in widths.items()
                if name in {*used, "text"}
            },
            "label": {"type": "label", "classes": 2},
        },
        encoders={
            **{n: {"type": "embed", "width": 6, "positions": "keep"} for n in sorted(used)},
            "lm": lm,
            **more,
        },
        fusion=fusion,
        heads={"y": {"type": "classifier", "input": "lm.text.mean", "classes": 2}},
        losses={"y": {"type": "cross_entropy", "prediction": "y", "target": "batch.label"}},
    )


def batch(graph, garbage=0.0, here=HERE):
    rng = np.random.default_rng(0)
    out = {"label": Stream(np.array([0, 1, 0, 1], "int32"))}
    for name, shape in (("image", (4, 3, 6)), ("audio", (4, 4, 5)), ("text", (4, 5, 4))):
        values = rng.normal(size=shape).astype("float32")
        mask = np.arange(shape[1]) < VALID[name] - (np.arange(4) > 0)[:, None]
        values[~(mask & here[name][:, None])] = garbage
        out[name] = Stream(values, mask, here[name])
    return {name: out[name] for name in graph.inputs}


def params_of(program, state):
    arrays = program.parameters(state)
    return {path: np.asarray(leaf, "float64") for path, leaf in arrays.items()}


def run(program, state, given):
    context = program.context("evaluate", None)

    @jax.jit
    def values(batch):
        found, _ = program.model.apply(state.params, state.variables, batch, context=context)
        return found[Key("layer", "lm", -1)], found[Key("out", "lm")]

    return values(program.batch(given))


def randomised(state):
    rng = np.random.default_rng(1)
    noise = lambda a: a + 0.3 * rng.normal(size=a.shape).astype("float32")  # noqa: E731
    return state.with_(params=jax.tree.map(noise, state.params))


def test_a_stack_over_what_is_there():
    """Readout, then two prefixes in the order of the file, text, and learned tokens; the stack's
    own positions are added to the text alone."""
    more = {"type": "prefix_tokens", "into": "lm@input", "at": "suffix", "tokens": 2}
    graph = resolve(declared({"hear": HEAR, "see": SEE, "more": more}))
    program = Program(graph, layers="unroll")
    state = randomised(program.init(0))
    given = batch(graph, np.nan)
    entered, left = run(program, state, given)
    spans = [(span.label, span.size, span.readout) for span in left.spans]
    order = [("text", 1, True), ("audio", 4, False), ("image", 3, False), ("text", 5, False)]
    assert spans == [*order, ("prompt", 2, False)]
    np.testing.assert_array_equal(left.presence, HERE["text"])
    p = params_of(program, state)
    for row in range(4):
        count = {name: VALID[name] - (row > 0) if HERE[name][row] else 0 for name in VALID}
        read = {n: np.asarray(given[n].values, "float64")[row, : count[n]] for n in VALID}
        tokens = [p["lm.readout.tokens"]]
        for name, fusion in (("audio", "hear"), ("image", "see")):
            x = read[name]
            if f"{name}.proj.kernel" in p:
                x = x @ p[f"{name}.proj.kernel"] + p[f"{name}.proj.bias"]
            tokens.append(x @ p[f"{fusion}.proj.kernel"] + p[f"{fusion}.proj.bias"])
        text = read["text"] + p["lm.positions.table"][: count["text"]]
        x = np.concatenate([*tokens, text, p["more.learned"]])
        mask = np.asarray(left.mask)[row]
        np.testing.assert_array_equal(np.flatnonzero(mask)[[0, -2, -1]], [0, 13, 14])
        position = np.asarray(entered.position)[row, mask]
        np.testing.assert_array_equal(position[1:], range(len(x) - 1))
        for layer in range(2):
            x = block(p, f"lm.layers.{layer}.", x)
        want = norm(p, "lm.end.norm", x)
        got = np.asarray(left.values)[row][mask]
        assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


@pytest.mark.parametrize("at", ["prefix", "suffix"])
def test_absent_tokens_are_as_if_nothing_was_put_in(at):
    """Under rotary positions and a causal mask, which read positions and order; and contents of
    what is absent or padded change no loss and no gradient."""
    lm = {**LM, "positions": "rotary", "causal": True}
    graph = resolve(declared({"see": {**SEE, "at": at}}, lm))
    plain = resolve(declared({}, lm))
    program, without = Program(graph, layers="unroll"), Program(plain, layers="unroll")
    state = randomised(program.init(0))
    flat = program.flat(state)
    bare = without.restored({path: flat[path] for path in without.flat(without.init(0))})
    _, one = run(program, state, batch(graph))
    _, other = run(without, bare, batch(plain))
    text = one.span("text")
    np.testing.assert_array_equal(np.asarray(text.mask), np.asarray(other.span("text").mask))
    same = np.isclose(text.values, other.span("text").values, atol=2e-6).all((1, 2))
    np.testing.assert_array_equal(same, ~HERE["image"] if at != "suffix" else [True] * 4)
    if at != "prefix":
        return
    losses = []
    nobody = dict.fromkeys(HERE, np.zeros(4, bool))
    for garbage, here in ((0.0, HERE), (np.nan, HERE), (np.nan, nobody)):
        after, metrics = program.step(program.init(0), batch(graph, garbage, here))
        losses.append((metrics["loss"], program.flat(after)))
    for a, b in zip(*(jax.tree.leaves(losses[k][0]) for k in (0, 1)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(losses[2][0]) == 0.0


@partial(jax.jit, compiler_options=QUICK)
def inserted(text, tokens):
    out, end = insert(text, tokens, "prefix"), insert(text, tokens, "suffix")
    return out, end, insert(out, tokens, "prefix"), insert(out, tokens, "text")


def test_positions_and_labels():
    """Text 0 1 2 with the last padded; tokens 0 _ 2 are put before it, after a readout token."""
    text = Stream(
        jnp.zeros((2, 4, 2)),
        jnp.asarray([[True] * 3 + [False]] * 2),
        spans=(Span("a", 1, readout=True), Span("text", 3)),
    )
    tokens = Stream(
        jnp.ones((2, 3, 2)),
        jnp.asarray([[True, False, True]] * 2),
        jnp.asarray([True, False]),
        spans=(Span("image", 3, items=3),),
    )
    out, end, again, before = inserted(text, tokens)
    assert out.spans == (text.spans[0], Joined("image", 3, 3), text.spans[1])
    np.testing.assert_array_equal(out.position, [[0, 0, 1, 1, 2, 3, 4], [0, 0, 0, 0, 0, 1, 2]])
    np.testing.assert_array_equal(out.items(), [0, 0, 1, 2, 0, 0, 0])
    valid = [[True, True, False, True, True, True, False], [True, *[False] * 3, True, True, False]]
    np.testing.assert_array_equal(out.mask, valid)
    assert not np.any(out.values[1])
    np.testing.assert_array_equal(end.position[0], [0, 0, 1, 2, 2, 3, 3])
    assert [span.label for span in again.spans] == ["a", "image", "image", "text"]
    np.testing.assert_array_equal(again.position[0, 4:7], [2, 3, 3])
    assert before.spans == again.spans


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"at": "words"}, "no tokens labelled words"),
        ({"width": 8}, "the width of the stack"),
        ({"into": ["lm@input", "other@input"]}, "put into one stack"),
        ({"into": "conv@0"}, "needs the hook tokens"),
        ({"at": "a b"}, "at"),
    ],
)
def test_refuses(fields, message):
    conv = {"type": "conv1d", "input": "batch.text", "width": 4, "depth": 2}
    stacks = {"other": {**LM, "keep": True}, "conv": {**conv, "keep": True}}
    with pytest.raises(ConfigError, match=message):
        resolve(declared({"see": {**SEE, **fields}}, **stacks))

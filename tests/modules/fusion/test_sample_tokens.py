"""Tokens drawn at random: how many of each input, which, and what is left."""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.conformance.laws import quick
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Span, sequence, vector
from fusekit_modules.fusion._draw import apportioned, drawn
from fusekit_modules.fusion.sample_tokens import SampleTokensSpec
from tests.modules.fusion.harness import (
    Case,
    compare_garbage,
    compare_signatures,
    inputs_of,
    pad,
    patterns,
)

SPANS = (Span("sound", 1, readout=True), Span("sound", 4))
INPUTS = {
    "x": sequence(4, 3, label="image", padded=True, optional=True),
    "y": sequence(3, 3, label="depth", optional=True),
    "z": sequence(5, 3, spans=SPANS, padded=True, optional=True),
}
SIZES = (4, 3, 4)
"""Without the readout token."""
LABELS = ("image", "depth", "sound")


def spec(**fields):
    return SampleTokensSpec(**{"inputs": list(INPUTS), **fields})


def case_of(**fields):
    """Every way of being present, with rows of every length, one of them all padding."""
    case, presence = Case(spec(**fields), INPUTS), patterns(3)
    arrays = inputs_of(case, len(presence))
    pad(case, len(presence))
    case.masks["z"][6] = False
    return case, arrays, presence


def valid_of(case, presence):
    masks = [case.masks["x"], np.ones((8, 3), bool), case.masks["z"][:, 1:]]
    return np.concatenate([m & p[:, None] for m, p in zip(masks, presence.T, strict=True)], axis=1)


def host(out):
    return jax.tree.map(np.asarray, out)


def trained(case, arrays, presence, *, keys=(0,)):
    """In training, by key."""
    module, streams = case.merged({}), {n: a.astype("float32") for n, a in arrays.items()}

    def call(streams, key):
        return module(streams, context=Context(mode="train", key=jax.random.key(key), path="node"))

    compiled = quick(call)
    return [host(compiled(case.streams(streams, presence), key)) for key in keys]


@pytest.mark.parametrize("mode", ["evaluate", "train"])
@pytest.mark.parametrize(("tokens", "targets"), [(5, None), (3, 4), (11, None)])
def test_what_is_drawn_and_what_is_hidden_is_all(mode, tokens, targets):
    case, arrays, presence = case_of(tokens=tokens, targets=targets)
    valid = valid_of(case, presence)
    flat = {**arrays, "z": arrays["z"][:, 1:]}
    everything = np.concatenate(list(flat.values()), axis=1).astype("float32")
    places = np.concatenate([np.arange(n) for n in (4, 3)] + [np.arange(4)])
    train = mode == "train"
    out = (
        trained(case, arrays, presence)[0] if train else host(case.run(arrays, presence, "float32"))
    )
    hidden = np.asarray(out["hidden"].values)
    assert hidden.dtype == bool
    for row in range(8):
        count = min(tokens, valid[row].sum())
        np.testing.assert_array_equal(out["out"].mask[row], np.arange(tokens) < count)
        assert not np.any(out["out"].values[row, count:])
        seen = np.flatnonzero(valid[row] & ~hidden[row])
        assert len(seen) == count
        np.testing.assert_array_equal(out["out"].values[row, :count], everything[row, seen])
        np.testing.assert_array_equal(out["out"].position[row, :count], places[seen])
        if targets is not None:
            wanted = np.asarray(out["wanted"].values[row])
            assert wanted.sum() == min(targets, hidden[row].sum())
            assert not np.any(wanted & ~hidden[row])
    assert not np.any(hidden & ~valid)
    np.testing.assert_array_equal(out["hidden"].mask, valid)
    np.testing.assert_array_equal(out["out"].presence, presence.any(axis=1))
    assert [s.label for s in out["out"].spans] == ["image_depth_sound"]
    assert out["hidden"].spans == tuple(map(Span, LABELS, SIZES))


@pytest.mark.parametrize("fields", [{"tokens": 5}, {"tokens": 3, "targets": 4}])
def test_signatures_gradients_and_garbage(fields):
    case, arrays, presence = case_of(**fields)
    compare_signatures(case, arrays, presence)
    compare_garbage(case, arrays, presence, ("out",))
    out = host(case.run(arrays, presence))
    weights = case.rng.normal(size=out["out"].values.shape)
    _, grads = case.gradients(arrays, presence, {"out": weights})
    seen = valid_of(case, presence) & ~out["hidden"].values
    grad = np.concatenate([grads["x"], grads["y"], grads["z"][:, 1:]], axis=1)
    assert not np.any(grads["z"][:, 0])
    for row in range(8):
        assert not np.any(grad[row, ~seen[row]])
        np.testing.assert_array_equal(grad[row, seen[row]], weights[row, : seen[row].sum()])
    for name in arrays:  # of a copy, the change along a direction is the direction's
        step = np.where(case.valid(name, arrays[name], presence), 1.0, np.nan)
        step = step * case.rng.normal(size=step.shape)
        moved = host(case.run({**arrays, name: arrays[name] + step}, presence))["out"].values
        change, along = np.sum((moved - out["out"].values) * weights), np.nan_to_num(step)
        np.testing.assert_allclose(change, np.sum(grads[name] * along), rtol=1e-10, atol=1e-12)


def test_types_and_whole_inputs():
    """In any type the same tokens; without absence there is no mask."""
    whole = {role: s.with_(padded=False, optional=False) for role, s in INPUTS.items()}
    case = Case(spec(tokens=5), whole)
    arrays = inputs_of(case, 6)
    compare_signatures(case, arrays, None)
    found = {t: host(case.run(arrays, None, t)) for t in ("float64", "float32", "bfloat16")}
    hidden = found["float64"]["hidden"].values
    for dtype, out in found.items():
        assert out["out"].values.dtype == dtype
        assert out["out"].mask is None
        np.testing.assert_array_equal(out["hidden"].values, hidden)
    np.testing.assert_array_equal(hidden, np.tile(hidden[:1], (6, 1)))
    seen = np.split(~hidden[0], np.cumsum(SIZES)[:-1])
    assert sorted(s.sum() for s in seen) == [1, 2, 2]  # equal shares


def test_more_padding_changes_nothing():
    case, arrays, presence = case_of(tokens=5)
    longer = Case(spec(tokens=5), {**INPUTS, "x": sequence(9, 3, label="image", padded=True)})
    longer.inputs["x"] = longer.inputs["x"].with_(optional=True)
    longer.masks = {**case.masks, "x": np.pad(case.masks["x"], ((0, 0), (0, 5)))}
    more = {**arrays, "x": np.pad(arrays["x"], ((0, 0), (0, 5), (0, 0)), constant_values=np.nan)}
    for run in (
        lambda c, a: c.run(a, presence, "float32"),
        lambda c, a: trained(c, a, presence)[0],
    ):
        one, other = run(case, arrays)["out"], run(longer, more)["out"]
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.mask, other.mask)


def webster(shares, numbers, count):
    """One token after another to the input whose next is due first."""
    given = [0] * len(shares)
    for _ in range(min(count, sum(numbers))):
        due = [
            (given[k] + 0.5) / shares[k] if given[k] < numbers[k] else np.inf
            for k in range(len(shares))
        ]
        given[int(np.argmin(due))] += 1
    return given


def test_budgets_against_a_loop():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([0.7] * 3, 300)
    numbers = rng.integers(0, np.array([5, 10, 8]), (300, 3))
    taken = quick(lambda s, n: apportioned(s, n, (4, 9, 7), 8))(
        jnp.asarray(np.log(shares), "float32"), jnp.asarray(numbers)
    )
    parts = np.split(np.asarray(taken), [4, 13], axis=1)
    found = np.stack([part.sum(axis=1) for part in parts], axis=1)
    want = [webster(s, n, 8) for s, n in zip(shares, numbers, strict=True)]
    np.testing.assert_array_equal(found, want)
    for part, count in zip(parts, found.T, strict=True):  # the first that there are
        np.testing.assert_array_equal(part, np.arange(part.shape[1]) < count[:, None])


@pytest.mark.parametrize("concentration", [0.3, 1.0, 5.0])
def test_counts_follow_the_shares(concentration):
    """Beside draws by NumPy; and within an input each token is as likely as any other."""
    rows, sizes, count = 12000, (6, 12, 9), 7
    among = np.ones((rows, 27), bool)
    among[:, 3] = among[:, 20] = False
    among[: rows // 2, 6:18] = False  # an input that is absent has no share
    draw = quick(lambda key, marks: drawn(key, marks, sizes, count, concentration))
    found = np.asarray(draw(jax.random.key(1), jnp.asarray(among)))
    assert not np.any(found & ~among)
    np.testing.assert_array_equal(found.sum(axis=1), count)
    counts = np.stack([p.sum(axis=1) for p in np.split(found, [6, 18], axis=1)], axis=1)
    rng = np.random.default_rng(2)
    for half, numbers in ((slice(rows // 2), (5, 0, 8)), (slice(rows // 2, None), (5, 12, 8))):
        shares = rng.dirichlet([concentration] * 3, rows // 2)
        want = np.array([webster(s, numbers, count) for s in shares])
        for k in range(3):
            one, other = (
                np.bincount(c[:, k], minlength=8) / (rows // 2) for c in (counts[half], want)
            )
            np.testing.assert_allclose(one, other, atol=0.04)  # over 4 deviations
    for start, stop in ((0, 6), (6, 18), (18, 27)):
        marks = among[-1, start:stop]
        share = found[rows // 2 :, start:stop].mean(axis=0)[marks]
        np.testing.assert_allclose(share, share.mean(), atol=0.04)


def test_training_draws_anew_by_step_and_row_and_evaluation_does_not():
    case, arrays, _ = case_of(tokens=5, concentration=0.5)
    case.masks = {"x": np.ones((8, 4), bool), "z": np.ones((8, 5), bool)}
    presence = np.ones((8, 3), bool)
    runs = trained(case, arrays, presence, keys=(0, 1, 2, 3, 0))
    runs = [out["hidden"].values for out in runs]
    assert len(Counter(map(bytes, np.concatenate(runs)))) > 15
    np.testing.assert_array_equal(runs[0], runs[4])
    modes: list[Any] = ["evaluate", "predict"]
    module, streams = case.merged({}), case.streams(arrays, presence)
    contexts = [Context(mode=mode, path="node") for mode in modes]  # without a key
    fixed = quick(lambda streams: [module(streams, context=c)["hidden"].values for c in contexts])
    one, other = map(np.asarray, fixed(streams))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, np.tile(one[:1], (8, 1)))


def test_refuses():
    with pytest.raises(WiringError, match="more tokens are drawn"):
        spec(tokens=8, targets=4).infer(INPUTS)
    with pytest.raises(WiringError, match="differ in embed"):
        spec(tokens=2).infer({"x": sequence(4, 3), "y": sequence(4, 5)})
    with pytest.raises(WiringError, match="where a sequence is due"):
        spec(tokens=2).infer({"x": vector(3)})
    alone = sequence(2, 3, spans=(Span("a", 2, readout=True),))
    with pytest.raises(WiringError, match="readout tokens alone"):
        spec(tokens=2).infer({"x": sequence(4, 3), "y": alone})

"""Bipartite soft matching against NumPy, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Span, Stream, sequence
from fusekit_modules.fusion.token_merge import TokenMergeSpec
from tests.modules.fusion.harness import QUICK, check, filled


def merged(tokens, merge):
    """`tokens` is a list of (mean, size, place); gives the same after one round."""
    hosts, guests = list(range(0, len(tokens), 2)), list(range(1, len(tokens), 2))

    def like(a, b):
        x, y = tokens[a][0], tokens[b][0]
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    best = {g: max(hosts, key=lambda h: like(g, h)) for g in guests}
    going = sorted(guests, key=lambda g: -like(g, best[g]))[:merge]
    out = []
    for index, (mean, size, place) in enumerate(tokens):
        if index in going:
            continue
        members = [(mean, size), *[tokens[g][:2] for g in going if best[g] == index]]
        total = sum(s for _, s in members)
        out.append((sum(m * s for m, s in members) / total, total, place))
    return out


def rounds(x, merge, times):
    tokens = [(token, 1.0, place) for place, token in enumerate(x)]
    for _ in range(times):
        tokens = merged(tokens, merge)
    return tokens


def test_twice_with_padding_and_a_readout_token():
    spans = (Span("m0", 1, readout=True), Span("m0", 9))
    spec = TokenMergeSpec(inputs=["m0"], merge=2, times=2, width=4)  # pyright: ignore

    def reference(p, xs):
        tokens = np.stack([mean for mean, _, _ in rounds(xs[0][1:], 2, 2)] or [np.zeros(3)])
        tokens = tokens[: len(xs[0][1:])]
        return filled(tokens @ p["proj.kernel"] + p["proj.bias"], 5, 4)

    check(spec, [sequence(10, 3, spans=spans, padded=True)], reference)


def test_sizes_order_and_holes():
    """By hand: 0, 2 and 5 are alike, and so are 3 and 6; 1 and 4 are padding."""
    directions = {0: (1, 0), 2: (2, 0.1), 3: (0, 1), 5: (3, 0.2), 6: (0.1, 2)}
    values = np.full((2, 7, 2), np.nan, "float32")
    mask = np.zeros((2, 7), bool)
    for index, direction in directions.items():
        values[0, index], mask[0, index] = direction, True
    spec = TokenMergeSpec(inputs=["a"], merge=1, times=2)  # pyright: ignore
    module = spec.build({"a": sequence(7, 2, label="a", padded=True)}, rngs=nnx.Rngs(0))
    call = jax.jit(lambda s: module({"a": s}, context=Context()), compiler_options=QUICK)
    out = call(Stream(jnp.asarray(values), jnp.asarray(mask), spans=(Span("a", 7),)))
    given = [(np.array(directions[i], "float64"), 1.0, i) for i in sorted(directions)]
    want = merged(merged(given, 1), 1)
    np.testing.assert_array_equal(out.mask, [[True] * 3 + [False] * 2, [False] * 5])
    np.testing.assert_allclose(out.values[0, :3], [mean for mean, _, _ in want], rtol=1e-6)
    np.testing.assert_array_equal(out.positions()[0, :3], [place for _, _, place in want])
    assert not np.any(out.values[1])


def test_refuses():
    given = sequence(6, 2, label="a")
    assert TokenMergeSpec(merge=2, times=2).infer({"a": given}).length == 2
    with pytest.raises(WiringError, match="at most half"):
        TokenMergeSpec(merge=2, times=3).infer({"a": given})

"""Logits of words and of maps against NumPy, with what is padded, absent or a readout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.conformance.laws import quick
from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.standalone import standalone
from fusekit.stream import Signature, Span, Stream, sequence, vector
from fusekit_modules.heads.dense import DenseSpec
from fusekit_modules.heads.lm import LmSpec

SPANS = (Span("", 1, readout=True), Span("a", 6))
TOKENS = sequence(7, 4, spans=SPANS, padded=True, optional=True, grid=(("height", 2), ("width", 3)))
MAP = Signature((("height", 2), ("width", 3), ("channel", 4)), optional=True)
CLIP = Signature(
    (("time", 2), ("height", 2), ("width", 1), ("channel", 4)), padded=True, optional=True
)
FLAT = sequence(4, 4, label="v", padded=True, grid=(("time", 2), ("height", 2), ("width", 1)))


class Made:
    """A head with random parameters in float64, compiled once with its gradient."""

    def __init__(self, spec, given, x, mask=None, presence=None):
        self.spec, self.given, self.x = spec, given, x
        module = standalone(spec, {"input": given}, rngs=nnx.Rngs(0))
        graph, params = nnx.split(module, nnx.Param)
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
        self.p = {
            ".".join(map(str, path)): np.asarray(leaf[...])
            for path, leaf in nnx.to_flat_state(params)
        }
        marks = [None if m is None else jnp.asarray(m) for m in (mask, presence)]
        stream = Stream(jnp.asarray(x), *marks, spans=given.spans, grid=given.grid)
        made = nnx.merge(graph, params)

        def run(values):
            return made({"input": stream.with_(values=values)}, context=Context())

        def total(values):
            out = run(values)
            return jnp.sum(jnp.sin(out.values)), out

        self.both = quick(jax.grad(total, has_aux=True))

    def check(self, plain, valid):
        """Against `plain(x)`, with differences of its sum of sines; garbage where not valid."""
        grad, out = self.both(jnp.asarray(self.x))
        np.testing.assert_allclose(out.values, plain(self.x), rtol=1e-10, atol=1e-12)
        numeric = np.zeros_like(self.x)
        for index in np.ndindex(*self.x.shape):
            step = np.zeros_like(self.x)
            step[index] = 1e-5
            ahead, behind = (np.sin(plain(self.x + s)).sum() for s in (step, -step))
            numeric[index] = (ahead - behind) / 2e-5
        np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-8)
        for garbage in (np.nan, np.inf, 1e30):
            again = self.both(jnp.asarray(np.where(valid[..., None], self.x, garbage)))
            for one, other in zip(
                jax.tree.leaves((grad, out)), jax.tree.leaves(again), strict=True
            ):
                np.testing.assert_array_equal(one, other)
        declared = self.spec.infer({"input": self.given})
        assert declared.shape == out.values.shape[1:]
        assert declared.spans == out.spans
        assert declared.padded == (out.mask is not None)
        assert declared.optional == (out.presence is not None)
        return out


def affine(p, name, x):
    return x @ p[f"{name}.kernel"] + p.get(f"{name}.bias", 0)


@pytest.mark.parametrize("fields", [{}, {"hidden": 5, "activation": "tanh", "bias": False}])
def test_words(fields):
    rng = np.random.default_rng(1)
    x, mask = rng.normal(size=(2, 7, 4)), rng.random((2, 7)) < 0.7
    presence = np.array([True, False])
    valid = mask & presence[:, None]
    with jax.enable_x64(True):
        made = Made(LmSpec(input="x", vocab=6, **fields), TOKENS, x, mask, presence)

        def plain(x):
            h = x[:, 1:]
            if fields:
                h = np.tanh(affine(made.p, "hidden", h))
                centred = h - h.mean(-1, keepdims=True)
                h = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
                h = h * made.p["norm.scale"] + made.p["norm.bias"]
            return np.where(valid[:, 1:, None], affine(made.p, "out", h), 0)

        out = made.check(plain, valid)
    assert out.spans == (Span("a", 6),)
    module = standalone(made.spec, {"input": TOKENS}, rngs=nnx.Rngs(0))
    axes = {
        ".".join(map(str, p)): v.get_metadata()["axes"]
        for p, v in nnx.to_flat_state(nnx.state(module))
    }
    assert axes["out.kernel"] == ("embed", "vocab")


def interpolated(x, sizes):
    """Bilinear with half-pixel centres, clamped at the border, by loops over `[h, w, c]`."""
    out = np.zeros((*sizes, x.shape[-1]))
    for i, j in np.ndindex(*sizes):
        places = []
        for k, (at, new, old) in enumerate(zip((i, j), sizes, x.shape[:2], strict=True)):
            centre = min(max((at + 0.5) * old / new - 0.5, 0), old - 1)
            low = min(int(np.floor(centre)), old - 2) if old > 1 else 0
            share = centre - low
            places.append([(low, 1 - share), (min(low + 1, old - 1), share)])
            assert k < 2
        for row, a in places[0]:
            for column, b in places[1]:
                out[i, j] += a * b * x[row, column]
    return out


def test_a_map_of_features_made_larger():
    rng, presence = np.random.default_rng(2), np.array([True, False, True])
    x = rng.normal(size=(3, 2, 3, 4))
    with jax.enable_x64(True):
        spec = DenseSpec(input="x", classes=("sky", "road"), size=(5, 6))
        made = Made(spec, MAP, x, None, presence)

        def plain(x):
            each = [interpolated(affine(made.p, "out", row), (5, 6)) for row in x]
            return np.where(presence[:, None, None, None], each, 0)

        made.check(plain, np.broadcast_to(presence[:, None, None], x.shape[:-1]))
    assert spec.infer({"input": MAP}).names == ("sky", "road")
    assert spec.infer({"input": MAP}).axes == ("height", "width", "channel")


def test_tokens_are_put_back_where_they_came_from():
    rng, presence = np.random.default_rng(3), np.array([True, True])
    x = rng.normal(size=(2, 7, 4))
    given = TOKENS.with_(padded=False)
    with jax.enable_x64(True):
        spec = DenseSpec(input="x", channels=2, size=(2, 5), hidden=3, activation="tanh")
        made = Made(spec, given, x, None, presence)

        def plain(x):
            h = np.tanh(affine(made.p, "hidden", x[:, 1:]))
            maps = affine(made.p, "out", h).reshape(2, 2, 3, 2)
            return np.stack([interpolated(row, (2, 5)) for row in maps])

        made.check(plain, np.broadcast_to(presence[:, None], x.shape[:-1]))


@pytest.mark.parametrize("flat", [False, True])
def test_frames_that_are_padding_stay_so(flat):
    rng, frames = np.random.default_rng(4), np.array([[True, True], [True, False]])
    x = rng.normal(size=(2, 2, 2, 1, 4))
    given = FLAT if flat else CLIP.with_(optional=False)
    mask = np.repeat(frames, 2, axis=1) if flat else frames
    with jax.enable_x64(True):
        spec = DenseSpec(input="x", channels=2, size=(4, 2))
        made = Made(spec, given, x.reshape(2, 4, 4) if flat else x, mask)

        def plain(x):
            maps = affine(made.p, "out", x.reshape(2, 2, 2, 1, 4))
            each = [[interpolated(frame, (4, 2)) for frame in clip] for clip in maps]
            return np.where(frames[:, :, None, None, None], each, 0)

        valid = mask if flat else np.broadcast_to(frames[..., None, None], x.shape[:-1])
        out = made.check(plain, valid)
        np.testing.assert_array_equal(out.mask, frames)


@pytest.mark.parametrize(
    ("fields", "given", "words"),
    [
        ({}, MAP, "one of them"),
        ({"classes": 2, "channels": 2}, MAP, "one of them"),
        ({"classes": 2}, vector(4), "is no grid"),
        ({"classes": 2}, sequence(6, 4), "is no grid"),
        ({"classes": 2, "size": (1, 9)}, MAP, "less than that of the grid"),
        ({"classes": 2, "size": (4, 6)}, MAP.with_(padded=True), "cannot be resized"),
    ],
)
def test_misfits(fields, given, words):
    with pytest.raises(WiringError, match=words):
        DenseSpec(input="x", **fields).infer({"input": given})

"""Patches, positions, readout tokens and tables against NumPy."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from fusekit.stream import Signature, Span, Stream, label_id
from fusekit_modules.layers.embed import TokenEmbed, cut_patches, patch_mask
from fusekit_modules.layers.features import FieldTokens, as_vector, vector_width
from fusekit_modules.layers.positions import sinusoidal
from fusekit_modules.layers.readout import Readouts
from tests.modules.layers.harness import STILL, TIGHT, float64, randomised
from tests.reference.transformer import sines

RNG = np.random.default_rng(0)


def test_patches_of_an_image():
    x = RNG.normal(size=(2, 4, 6, 3)).astype("float32")
    patches = np.asarray(cut_patches(jnp.asarray(x), (2, 3)))
    assert patches.shape == (2, 4, 18)
    for i in range(2):
        for j in range(2):
            want = x[:, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3].reshape(2, 18)
            np.testing.assert_array_equal(patches[:, 2 * i + j], want)


def test_tubelets_of_a_video():
    x = RNG.normal(size=(1, 4, 2, 4, 3)).astype("float32")
    tubelets = np.asarray(cut_patches(jnp.asarray(x), (2, 1, 2)))
    at = 0
    for t in range(2):
        for i in range(2):
            for j in range(2):
                want = x[:, 2 * t : 2 * t + 2, i : i + 1, 2 * j : 2 * j + 2].reshape(1, 12)
                np.testing.assert_array_equal(tubelets[:, at], want)
                at += 1


def test_a_patch_is_valid_if_any_of_its_frames_is():
    mask = jnp.array([[True, True, True, False, False, False]])
    want = [[True, True, True, True, False, False]]
    np.testing.assert_array_equal(patch_mask(mask, (2, 4), (3, 2)), want)


def test_sines():
    for width in (4, 6, 7):
        at = np.array([[0, 1, 2], [5, 50, 500]])
        with float64():
            got = sinusoidal(jnp.asarray(at), width, dtype=jnp.float64)
        np.testing.assert_allclose(got, np.stack([sines(row, width) for row in at]), **TIGHT)


def test_codes():
    build, p = randomised(TokenEmbed(5, 3, rngs=nnx.Rngs(0)))
    codes = np.array([[0, 4, 2], [1, 1, 3]])
    with float64():
        got = build(p)(jnp.asarray(codes), dtype=jnp.float64)
    np.testing.assert_allclose(got, p["table"][codes], **TIGHT)


def test_readouts_stand_before_and_are_valid():
    build, p = randomised(Readouts(2, 4, rngs=nnx.Rngs(0)))
    x = RNG.normal(size=(2, 3, 4))
    spans = (Span("image", 1), Span("image", 2, items=2))
    with float64():
        stream = Stream(
            jnp.asarray(x),
            mask=jnp.zeros((2, 3), bool),
            label=jnp.asarray([1, 2, 3]),
            item=jnp.asarray([[4, 5, 6], [7, 8, 9]]),
            spans=spans,
        )
        out = build(p)(stream)
    np.testing.assert_allclose(out.values, np.concatenate([np.stack([p["tokens"]] * 2), x], 1))
    np.testing.assert_array_equal(out.mask, [[True, True, False, False, False]] * 2)
    np.testing.assert_array_equal(out.label, [label_id("image")] * 2 + [1, 2, 3])
    np.testing.assert_array_equal(out.item, [[0, 0, 4, 5, 6], [0, 0, 7, 8, 9]])
    assert out.position is None
    assert out.spans == (Span("image", 2, readout=True), *spans)


TABLE = Signature((("field", 3),), cardinalities=(0, 3, 2), padded=True)
ROWS = np.array([[0.5, 2, 1], [-1.5, 0, 0]])


def test_fields_as_tokens():
    build, p = randomised(FieldTokens((0, 3, 2), 4, rngs=nnx.Rngs(0)))
    with float64():
        got = build(p)(jnp.asarray(ROWS), context=STILL)
    for i, row in enumerate(ROWS):
        want = [row[0] * p["scale"][0], p["table"][int(row[1])], p["table"][3 + int(row[2])]]
        np.testing.assert_allclose(got[i], np.stack(want) + p["bias"], **TIGHT)


def test_fields_as_a_vector():
    mask = np.array([[1, 1, 1], [1, 0, 1]], bool)
    with float64():
        got = as_vector(Stream(jnp.asarray(ROWS), jnp.asarray(mask)), TABLE, context=STILL)
    want = [[0.5, 0, 0, 1, 0, 1, 1, 1, 1], [-1.5, 0, 0, 0, 1, 0, 1, 0, 1]]
    np.testing.assert_array_equal(got, want)
    assert vector_width(TABLE) == 9

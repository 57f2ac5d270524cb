import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.standalone import standalone
from fusekit.stream import Signature, Span, Stream, sequence, vector
from fusekit_modules.modalities.mask_patches import MaskPatchesSpec
from fusekit_modules.modalities.mask_tokens import MaskTokensSpec
from fusekit_modules.modalities.noised import NoisedSpec

TOKENS = Signature((("time", 50),), dtype="int", spans=(Span("", 50),), padded=True, classes=7)
TRAIN = Context(mode="train", key=jax.random.key(1), path="batch.masked")


def tokens(batch=200):
    rng = np.random.default_rng(0)
    mask = np.arange(50) < rng.integers(1, 51, size=(batch, 1))
    return Stream(jnp.asarray(rng.integers(0, 7, (batch, 50))), mask=jnp.asarray(mask))


def view(spec, given, context, signature=TOKENS):
    return standalone(spec, {"of": signature}, rngs=nnx.Rngs(0))({"of": given}, context=context)


def test_shares_of_hidden_tokens():
    given = tokens()
    out = view(MaskTokensSpec(of="batch.x", rate=0.3), given, TRAIN)
    hidden, new, old = (np.asarray(s.values) for s in (out["hidden"], out["out"], given.clean()))
    valid = np.asarray(given.mask)
    assert not hidden[~valid].any()
    np.testing.assert_array_equal(new[~hidden], old[~hidden])
    assert abs(hidden[valid].mean() - 0.3) < 0.02
    changed = hidden & (old != 6)  # a token that is the mask token stays the same when masked
    assert abs((new[changed] == 6).mean() - 0.8) < 0.03
    # of the drawn tenth, one in six happens to be the same token
    kept = (new == old)[changed].mean()
    assert abs(kept - (0.1 + 0.1 / 6)) < 0.03


def test_only_the_mask_token():
    spec = MaskTokensSpec(of="batch.x", rate=1.0, masked=1.0, random=0.0, mask=2, special=(5,))
    given = tokens()
    out = view(spec, given, TRAIN)
    old, valid = np.asarray(given.clean().values), np.asarray(given.mask)
    np.testing.assert_array_equal(out["hidden"].values, valid & (old != 5))
    np.testing.assert_array_equal(out["out"].values, np.where(valid & (old != 5), 2, old))


def test_neither_mask_nor_special_is_drawn():
    spec = MaskTokensSpec(of="batch.x", rate=1.0, masked=0.0, random=1.0, mask=2, special=(0, 5))
    out = view(spec, tokens(), TRAIN)
    drawn = np.asarray(out["out"].values)[np.asarray(out["hidden"].values)]
    np.testing.assert_array_equal(np.unique(drawn), [1, 3, 4, 6])


def test_modes():
    spec, given = MaskTokensSpec(of="batch.x", rate=0.5), tokens(4)

    def run(context):
        return np.asarray(view(spec, given, context)["out"].values)

    evaluate = Context(path="batch.masked")
    np.testing.assert_array_equal(run(evaluate), run(evaluate))
    assert (run(evaluate) != np.asarray(given.clean().values)).any()
    assert (run(evaluate) != run(TRAIN)).any()
    predict = view(spec, given, Context(mode="predict"))
    np.testing.assert_array_equal(predict["out"].values, given.clean().values)
    assert not np.asarray(predict["hidden"].values).any()


def test_padding_and_absence_reach_nothing():
    given = tokens(4).with_(presence=jnp.asarray([True, False, True, True]))
    signature = TOKENS.with_(optional=True)
    spec = MaskTokensSpec(of="batch.x", rate=0.5)
    out = view(spec, given, TRAIN, signature)
    garbage = given.with_(values=jnp.where(given.valid(), given.values, 3))
    again = view(spec, garbage, TRAIN, signature)
    for port in ("out", "hidden"):
        np.testing.assert_array_equal(out[port].values, again[port].values)
        assert not np.asarray(out[port].values)[1].any()
        assert out[port].presence is not None


def test_mask_tokens_signatures_and_misfits():
    spec = MaskTokensSpec(of="batch.x")
    found = spec.infer({"of": TOKENS})
    assert found["out"] == TOKENS
    assert (found["hidden"].dtype, found["hidden"].shape) == ("bool", (50,))
    with pytest.raises(WiringError, match="due"):
        spec.infer({"of": vector(3)})
    with pytest.raises(WiringError, match="outside"):
        MaskTokensSpec(of="batch.x", mask=7).infer({"of": TOKENS})
    with pytest.raises(WiringError, match="exceed one"):
        MaskTokensSpec(of="batch.x", masked=0.8, random=0.3).infer({"of": TOKENS})
    with pytest.raises(WiringError, match="left to draw"):
        MaskTokensSpec(of="batch.x", special=tuple(range(6))).infer({"of": TOKENS})
    with pytest.raises(ValueError, match="of"):
        MaskTokensSpec.model_validate({})


@pytest.mark.parametrize("sigma", [0.0, 0.1])
@pytest.mark.parametrize("times", ["uniform", "logit_normal"])
def test_noised_path(sigma, times):
    signature = sequence(3, 2, padded=True, optional=True)
    rng = np.random.default_rng(0)
    mask = jnp.asarray(np.arange(3) < rng.integers(1, 4, size=(200, 1)))
    presence = jnp.asarray(np.arange(200) % 5 > 0)
    with jax.enable_x64(True):
        data = jnp.asarray(rng.normal(size=(200, 3, 2)))
        given = Stream(jnp.where(mask[..., None], data, jnp.nan), mask=mask, presence=presence)
        spec = NoisedSpec(of="batch.x", sigma=sigma, times=times)
        out = view(spec, given, TRAIN, signature)
    x, t, u = (np.asarray(out[port].values) for port in ("out", "time", "velocity"))
    valid = np.asarray(given.valid())
    full = t[:, None, None]
    # x = (1 - (1 - sigma) t) e + t d and u = d - (1 - sigma) e: so x - t u = e
    noise = (x - full * u)[valid]
    expected = np.asarray(data)[valid] - (1 - sigma) * noise
    np.testing.assert_allclose(u[valid], expected, rtol=1e-6, atol=1e-7)
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1
    assert not x[~valid].any()
    assert not u[~valid].any()
    assert not t[~np.asarray(presence)].any()
    chosen = t[np.asarray(presence)]
    assert 0 <= chosen.min() < chosen.max() <= 1
    spread = chosen if times == "uniform" else np.log(chosen / (1 - chosen))
    assert abs(spread.std() - (1 / np.sqrt(12) if times == "uniform" else 1)) < 0.15


def test_noised_modes_and_misfits():
    spec, given = NoisedSpec(of="batch.x"), Stream(jnp.ones((4, 3)))
    out = view(spec, given, Context(mode="predict"), vector(3))
    np.testing.assert_array_equal(out["out"].values, given.values)
    np.testing.assert_array_equal(out["time"].values, np.ones(4))
    first, second = (view(spec, given, Context(), vector(3))["out"].values for _ in range(2))
    np.testing.assert_array_equal(first, second)
    found = spec.infer({"of": vector(3, optional=True)})
    assert found["time"] == Signature((), optional=True)
    assert found["velocity"] == found["out"] == vector(3, optional=True)
    with pytest.raises(WiringError, match="real numbers"):
        spec.infer({"of": TOKENS})


IMAGE = Signature((("height", 4), ("width", 6), ("channel", 2)), optional=True)
FILM = Signature((("time", 4), ("height", 2), ("width", 2), ("channel", 1)), padded=True)


def test_hidden_patches_of_an_image():
    spec = MaskPatchesSpec(of="batch.x", patch=(2, 3))
    values = np.random.default_rng(0).normal(size=(60, 4, 6, 2))
    presence = np.arange(60) > 0
    out = view(spec, Stream(jnp.asarray(values), presence=jnp.asarray(presence)), TRAIN, IMAGE)
    hidden, new, patches = (np.asarray(out[k].values) for k in ("hidden", "out", "patches"))
    assert not hidden[0].any()
    assert 0.4 < hidden.mean() < 0.6
    for row in range(1, 60):
        for n in range(4):
            high, wide = slice(n // 2 * 2, n // 2 * 2 + 2), slice(n % 2 * 3, n % 2 * 3 + 3)
            old = values[row, high, wide].astype("float32")
            np.testing.assert_array_equal(patches[row, n], old.ravel())
            np.testing.assert_array_equal(new[row, high, wide], old * (not hidden[row, n]))
    signature = spec.infer({"of": IMAGE})
    for port, given in signature.items():
        assert out[port].values.shape[1:] == given.shape
        assert out[port].spans == given.spans
    still = view(spec, Stream(jnp.asarray(values)), Context(mode="predict"), IMAGE)
    np.testing.assert_array_equal(still["out"].values, values.astype("float32"))
    assert not np.asarray(still["hidden"].values).any()


def test_hidden_frames_of_a_video():
    spec = MaskPatchesSpec(of="batch.x", patch=(1, 2, 2), rate=1.0)
    mask = jnp.asarray([[True, True, False, False]])
    out = view(spec, Stream(jnp.ones((1, 4, 2, 2, 1)), mask=mask), TRAIN, FILM)
    np.testing.assert_array_equal(out["hidden"].values, mask)
    assert not np.asarray(out["out"].clean().values).any()
    np.testing.assert_array_equal(out["patches"].values[0, :, 0], [1, 1, 0, 0])


def test_patches_that_do_not_fit():
    for patch, given, words in (
        ((3, 3), IMAGE, "do not divide the height"),
        ((2, 2), FILM, "number of patch sizes"),
        ((2, 2), sequence(4, 2), "is due"),
    ):
        with pytest.raises(WiringError, match=words):
            MaskPatchesSpec(of="batch.x", patch=patch).infer({"of": given})

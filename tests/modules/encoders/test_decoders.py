"""Decoders, atrous pyramids and queries against NumPy; absence, padding and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.errors import FusekitError, WiringError
from fusekit.layered import Branch, Edit, Edits
from fusekit.stream import Signature, Span, sequence, vector
from fusekit_modules.encoders._atrous import AtrousConv
from fusekit_modules.encoders.aspp import AsppSpec
from fusekit_modules.encoders.conv_decoder import ConvDecoderSpec
from fusekit_modules.encoders.queries import QueriesSpec
from tests.modules.encoders.harness import Case
from tests.modules.layers.harness import STILL, TIGHT, check_gradients, float64, randomised

MAP = Signature((("height", 2), ("width", 3), ("channel", 2)))
SOUND = Signature((("time", 4), ("freq", 3)), spans=(Span("s", 4),), padded=True, optional=True)
MASK = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], bool)
HERE = np.array([True, False, True])


def conv(p, name, x, rate=1):
    """Place by place over `[h, w, c]`; zeros lie outside."""
    kernel, reach = p[f"{name}.kernel"], rate * (p[f"{name}.kernel"].shape[0] // 2)
    around = np.pad(x, [(reach, reach)] * 2 + [(0, 0)])
    out = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for i, j in np.ndindex(*x.shape[:2]):
        window = around[i : i + 2 * reach + 1 : rate, j : j + 2 * reach + 1 : rate]
        out[i, j] = np.tensordot(window, kernel, axes=3)
    return out + p.get(f"{name}.bias", 0)


def grouped(p, name, x, groups):
    split = x.reshape(*x.shape[:2], groups, -1)
    split = split - split.mean(axis=(0, 1, 3), keepdims=True)
    split = split / np.sqrt((split**2).mean(axis=(0, 1, 3), keepdims=True) + 1e-5)
    return split.reshape(x.shape) * p[f"{name}.scale"] + p[f"{name}.bias"]


@pytest.mark.parametrize("grid", [True, False])
def test_atrous_convolution(grid):
    kernel = (3, 3) if grid else (3,)
    build, p = randomised(AtrousConv(2, 3, kernel=kernel, rate=2, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 2) if grid else (2, 5, 2))

    def plain(a):
        kernel = {"c.kernel": a["kernel"] if grid else a["kernel"][:, None], "c.bias": a["bias"]}
        if grid:
            return np.stack([conv(kernel, "c", one, 2) for one in a["x"]])
        rows = []
        for one in a["x"]:
            around = np.pad(one, [(2, 2), (0, 0)])
            each = [np.tensordot(around[i : i + 5 : 2], a["kernel"], axes=2) for i in range(5)]
            rows.append(np.stack(each) + a["bias"])
        return np.stack(rows)

    arrays = {**p, "x": x}
    with float64():
        np.testing.assert_allclose(build(p)(jnp.asarray(x)), plain(arrays), **TIGHT)
    check_gradients(lambda a: build(a)(a["x"]), plain, arrays)


def pyramid(p, x, rates):
    def branch(name, y, rate=1):
        return np.maximum(grouped(p, f"{name}.norm", conv(p, f"{name}.conv", y, rate), 2), 0)

    each = [branch(f"branches.{k}", x, rate) for k, rate in enumerate((1, *rates))]
    mean = branch("whole", x.mean(axis=(0, 1), keepdims=True))
    each.append(np.broadcast_to(mean, each[0].shape))
    return branch("join", np.concatenate(each, axis=-1))


def test_aspp():
    spec = AsppSpec(width=4, rates=(1, 2), norm="group", groups=2)
    case = Case(spec, MAP)
    values = case.values(2)
    out = case(values).values
    for found, x in zip(out, values, strict=True):
        np.testing.assert_allclose(found, pyramid(case.p, x, (1, 2)), **TIGHT)


def test_aspp_of_a_padded_spectrogram_is_that_of_what_is_valid():
    case = Case(AsppSpec(width=4, rates=(1, 2), norm="group", groups=2), SOUND)
    values = case.values()
    out = case(values, MASK, HERE)
    for b in (0, 2):
        count = MASK[b].sum()
        want = pyramid(case.p, values[b][:count, :, None], (1, 2))
        np.testing.assert_allclose(out.values[b, :count], want, **TIGHT)
        assert not np.any(np.asarray(out.values[b, count:]))


def decoded(p, x, *, scale, groups, skip=None):
    for k in range(2):
        x = x.repeat(scale, axis=0).repeat(scale, axis=1)
        if skip is not None:
            x = x + skip[k]
        x = conv(p, f"layers.{k}.conv", x)
        x = np.maximum(grouped(p, f"layers.{k}.norm", x, groups) if groups else x, 0)
    return x


@pytest.mark.parametrize(("scale", "groups"), [(2, 2), (3, 0)])
@pytest.mark.parametrize("kind", ["map", "frames", "tokens"])
def test_decoder(scale, groups, kind):
    norm = {"norm": "group", "groups": groups} if groups else {"norm": "none"}
    given = {
        "map": MAP,
        "frames": MAP.with_(sizes=(("time", 2), *MAP.sizes)),
        "tokens": sequence(6, 2, label="t", grid=MAP.sizes[:2]),
    }[kind]
    case = Case(ConvDecoderSpec(widths=(4, 2), scale=scale, **norm), given)
    values = case.values(2)
    out = np.asarray(case(values).values)
    assert out.shape[1:] == case.spec.infer({"input": given}).shape
    for found, x in zip(out.reshape(-1, *out.shape[-3:]), values.reshape(-1, 2, 3, 2), strict=True):
        np.testing.assert_allclose(found, decoded(case.p, x, scale=scale, groups=groups), **TIGHT)


def test_a_decoder_takes_what_is_added_to_the_enlarged_map():
    case = Case(ConvDecoderSpec(widths=(2, 2), norm="none"), MAP)
    values, rng = case.values(1), np.random.default_rng(5)
    skips = [rng.normal(size=(1, 4, 6, 2)), rng.normal(size=(1, 8, 12, 2))]
    with float64():
        module, stream = case.build(case.p), case.stream(values)
        for layer, skip in zip(module.layers, skips, strict=True):
            branch = Branch(lambda x, skip=skip: x.with_(values=jnp.asarray(skip)))
            edits = Edits((Edit(), Edit(then={"upsample": branch})))
            out = layer(stream, edits, context=STILL)
            assert out.extras == (None, None)
            stream = out.stream
    want = decoded(case.p, values[0], scale=2, groups=0, skip=[s[0] for s in skips])
    np.testing.assert_allclose(stream.values[0], want, **TIGHT)
    for edit in (Edit(tokens=stream), Edit(then={"attention": Branch(lambda x: x)})):
        with pytest.raises(FusekitError, match="after upsample alone"):
            module.layers[0](stream, Edits((edit,)), context=STILL)


def test_queries():
    given = sequence(3, 4, label="t", padded=True, optional=True)
    case = Case(QueriesSpec(count=2, width=5), given)
    out = case(case.values(), MASK[:, :3], HERE)
    for b, here in enumerate(HERE):
        np.testing.assert_array_equal(out.values[b], case.p["table"] * here)
    assert out.spans == case.spec.infer({"input": given}).spans
    grad = case.gradients(case.values(), MASK[:, :3], HERE)["table"]
    np.testing.assert_allclose(grad, 2 * 2 * case.p["table"], **TIGHT)
    assert case.spec.infer({"input": vector(3)}) == sequence(2, 5)
    mapped = QueriesSpec(grid=(2, 3), width=5)
    sizes = (("height", 2), ("width", 3))
    assert mapped.infer({"input": vector(3)}) == sequence(6, 5, grid=sizes)
    assert Case(mapped, given)(case.values(), MASK[:, :3], HERE).grid == sizes
    with pytest.raises(WiringError, match="a grid says how many"):
        QueriesSpec(count=6, grid=(2, 3), width=5).infer({"input": vector(3)})


CASES = [
    *[(AsppSpec(**e), s) for e, s in zip(AsppSpec.examples(), (SOUND, SOUND), strict=True)],
    *[(ConvDecoderSpec(**e), SOUND) for e in ConvDecoderSpec.examples()],
    (
        ConvDecoderSpec(widths=(2,)),
        Signature((("time", 4), *MAP.sizes), padded=True, optional=True),
    ),
]


@pytest.mark.parametrize(("spec", "given"), CASES, ids=lambda x: getattr(x, "type", ""))
def test_what_is_not_there_changes_nothing(spec, given):
    case = Case(spec, given)
    values = case.values()
    gone = ~(MASK & HERE[:, None]).reshape(3, 4, *(1,) * (values.ndim - 2))
    found = []
    for garbage in (0, np.nan, 1e30):
        dirty = np.where(gone, garbage, values)
        out, grads = case(dirty, MASK, HERE, mode="train"), case.gradients(dirty, MASK, HERE)
        found.append([out.values, out.mask, *(grads[name] for name in sorted(grads))])
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((out, grads)))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    want = spec.infer({"input": given})
    assert found[0][0].shape[1:] == want.shape
    assert out.spans == want.spans
    for leaf in case.gradients(values, MASK, np.zeros(3, bool)).values():
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


@pytest.mark.parametrize(
    ("spec", "given", "field"),
    [
        (ConvDecoderSpec(kernel=2), MAP, "kernel"),
        (ConvDecoderSpec(norm="group", groups=5), MAP, "groups"),
        (ConvDecoderSpec(), sequence(6, 2), "input"),
        (ConvDecoderSpec(), sequence(6, 2, grid=MAP.sizes[:2], padded=True), "input"),
        (ConvDecoderSpec(), vector(2), "input"),
        (AsppSpec(norm="group", groups=5), MAP, "groups"),
        (AsppSpec(), sequence(6, 2), "input"),
    ],
)
def test_refuses(spec, given, field):
    with pytest.raises(WiringError) as error:
        spec.infer({"input": given})
    assert error.value.problem.path == (field,)

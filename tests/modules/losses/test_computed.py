"""Contrasts in models that compute in bfloat16, against float64; in float32 nothing is narrowed."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.conformance.laws import quick
from fusekit.context import Collector, Context
from fusekit.stream import Stream, vector
from fusekit_modules.losses import info_nce, siglip, symile
from fusekit_modules.losses.gram import GramSpec
from fusekit_modules.losses.info_nce import InfoNceSpec
from fusekit_modules.losses.siglip import SiglipSpec
from fusekit_modules.losses.symile import SymileSpec
from tests.modules.losses.harness import scalar
from tests.ops.contrastive.test_gpu import compiled_for
from tests.support.often import often

ROWS, WIDTH = 24, 64
SPECS = {"info_nce": InfoNceSpec, "siglip": SiglipSpec, "symile": SymileSpec, "gram": GramSpec}
THERE = np.arange(ROWS) % 5 != 3
"""Rows in which all modalities are present."""


def given(count, apart=1.0, seed=0):
    """Vectors of length one as a head gives them: rounded to bfloat16, and alike within a row."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((ROWS, WIDTH))
    found = [common + apart * rng.standard_normal((ROWS, WIDTH)) for _ in range(count)]
    return [jnp.asarray(v / np.linalg.norm(v, axis=1, keepdims=True), "bfloat16") for v in found]


def unit(x):
    return x / jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True))


def surprise(scores):
    """Minus the mean log-softmax of the diagonal, by row."""
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(scores, axis=1)))


def plain(name, vectors, log_scale, bias):
    """By definition, of the rows that are there, all at once."""
    units = [unit(v[THERE]) for v in vectors]
    scale, count = jnp.exp(log_scale), len(units)
    if name == "info_nce":
        pairs = [(a, b) for n, a in enumerate(units) for b in units[n + 1 :]]
        both = [surprise(scale * a @ b.T) + surprise(scale * b @ a.T) for a, b in pairs]
        return sum(both) / 2 / len(pairs)
    if name == "siglip":
        logits = scale * units[0] @ units[1].T + bias
        signs = 2 * jnp.eye(len(logits)) - 1
        return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(signs * logits), axis=1))
    if name == "gram":

        def volume(anchor, *others):
            made = jnp.stack([anchor, *others])
            return jnp.sqrt(jnp.linalg.det(made @ made.T))

        inner = jax.vmap(volume, (None, *[0] * (count - 1)))
        every = -scale * jax.vmap(inner, (0, *[None] * (count - 1)))(*units)
        return (surprise(every) + surprise(every.T)) / 2
    total = 0
    for n, anchor in enumerate(units):
        # combinations of the others' rows; of one row each are the right ones
        others = units[:n] + units[n + 1 :]
        names = "bcef"[: count - 1]
        product = jnp.einsum(",".join(f"{a}d" for a in names) + f"->{names}d", *others)
        every = scale * jnp.einsum("ad,...d->a...", anchor, product)
        at = (jnp.arange(len(anchor)),) * count
        total += jnp.mean(jax.nn.logsumexp(every.reshape(len(anchor), -1), axis=1) - every[at])
    return total / count


def built(name, count, **fields):
    names = [f"m{n}" for n in range(count)]
    spec = SPECS[name](inputs=names, **fields)
    inputs = {name: vector(WIDTH) for name in names}
    spec.check(inputs)
    return spec.build(inputs, rngs=nnx.Rngs(0))


def outcome(module, vectors, **context):
    """Loss, and gradients by vectors and by what the loss owns."""
    graph, params = nnx.split(module)
    told = Context(device=jax.devices("cpu")[0], **context)

    def loss(vectors, params):
        streams = {f"m{n}": Stream(v) for n, v in enumerate(vectors)}
        found = nnx.merge(graph, params)(streams, rows=jnp.asarray(THERE), context=told)
        return scalar(found)

    value, (by_vectors, by_params) = quick(jax.value_and_grad(loss, (0, 1)))(vectors, params)
    return value, by_vectors, nnx.to_pure_dict(by_params)


def off(found, due):
    found, due = (np.stack([np.asarray(a, np.float64) for a in x]) for x in (found, due))
    return np.linalg.norm(found - due) / np.linalg.norm(due)


CASES = [
    *[("info_nce", count, 0.07) for count in (2, 3, 4, 5)],
    ("info_nce", 2, 0.01),
    ("siglip", 2, 0.1),
    ("siglip", 2, 0.01),
    *[("symile", count, 0.07) for count in (3, 4)],
    *[("gram", count, 0.07) for count in (2, 3, 5)],
]


@pytest.mark.parametrize("kernel", often(["auto", "xla"], ["auto"]))
@pytest.mark.parametrize(("name", "count", "temperature"), CASES)
def test_losses_in_bfloat16_are_those_of_float64(name, count, temperature, kernel):
    # else the contrast of few rows would be won, and what is left of it be of rounding errors
    vectors = given(count, apart=4 if temperature < 0.05 else 1)
    module = built(name, count, temperature=temperature)
    value, by_vectors, owned = outcome(module, vectors, dtype=jnp.bfloat16, kernel=kernel)
    with jax.enable_x64(True):
        exact = [jnp.asarray(np.asarray(v, np.float64)) for v in vectors]
        wanted = quick(jax.value_and_grad(lambda *given: plain(name, *given), (0, 1, 2)))
        ends = jnp.float64(-np.log(temperature)), jnp.float64(-10)
        due, (by_exact, by_scale, by_bias) = wanted(exact, *ends)
    assert value.dtype == jnp.float32
    assert abs(float(value) - float(due)) < 1e-3 * abs(float(due))
    assert by_vectors[0].dtype == jnp.bfloat16
    assert off(by_vectors, by_exact) < 5e-3
    assert all(leaf.dtype == jnp.float32 for leaf in owned.values())
    assert abs(float(owned["scale"]) - float(by_scale)) < 5e-3 * abs(float(by_scale))
    if name == "siglip":
        assert abs(float(owned["bias"]) - float(by_bias)) < 5e-3 * abs(float(by_bias))
    for row in np.flatnonzero(~THERE):
        assert not any(np.any(np.asarray(grad[row])) for grad in by_vectors)


def test_a_teacher_in_bfloat16_is_that_of_float64():
    """ALBEF's mixture: hard targets and the teacher's own softmax, of the teacher's columns."""
    share, temperature, vectors = 0.4, 0.2, given(4)
    names = [f"m{n}" for n in range(4)]
    spec = InfoNceSpec(inputs=names[:2], soft=names[2:], soft_weight=share, temperature=temperature)
    inputs = {name: vector(WIDTH) for name in names}
    spec.check(inputs)
    module = spec.build(inputs, rngs=nnx.Rngs(0))
    value, by_vectors, owned = outcome(module, vectors, dtype=jnp.bfloat16)

    def one(query, key, teacher, log_scale):
        scale = jnp.exp(log_scale)
        soft = jax.nn.softmax(jax.lax.stop_gradient(scale) * teacher @ key.T, axis=1)
        target = (1 - share) * jnp.eye(len(key)) + share * soft
        return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(scale * query @ key.T, axis=1), 1))

    def form(told, taught, log_scale):
        (a, b), (c, d) = ([unit(v[THERE]) for v in each] for each in (told, taught))
        return one(a, d, c, log_scale) + one(b, c, d, log_scale)

    with jax.enable_x64(True):
        exact = [jnp.asarray(np.asarray(v, np.float64)) for v in vectors]
        wanted = quick(jax.value_and_grad(form, (0, 2)))
        due, (by_told, by_scale) = wanted(exact[:2], exact[2:], jnp.float64(-np.log(temperature)))
    share_of = float(value) / float(due)
    assert share_of == pytest.approx(0.5, rel=1e-3)  # the mean of both directions
    assert off(by_vectors[:2], [np.asarray(grad) / 2 for grad in by_told]) < 5e-3
    assert abs(float(owned["scale"]) - float(by_scale) / 2) < 5e-3 * abs(float(by_scale))
    assert not np.any(np.asarray(by_vectors[2]))
    assert not np.any(np.asarray(by_vectors[3]))


@pytest.mark.parametrize("name", ["info_nce", "siglip", "symile"])
def test_in_float32_nothing_is_narrowed(name, monkeypatch):
    count = 3 if name == "symile" else 2
    vectors = [v.astype(jnp.float32) for v in given(count)]
    found = outcome(built(name, count), vectors)
    module = {"info_nce": info_nce, "siglip": siglip, "symile": symile}[name]
    monkeypatch.setattr(module, "computed", lambda vectors, context: vectors)
    due = outcome(built(name, count), vectors)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "fields", "narrow"),
    [
        ("info_nce", {}, True),
        ("info_nce", {"similarity": "dot"}, True),
        ("siglip", {}, True),
        ("symile", {"negatives": "samples"}, True),
        ("gram", {}, False),
    ],
)
def test_the_operation_is_given_what_the_model_computes_in(name, fields, narrow):
    count = 3 if name == "symile" else 2

    def shapes(dtype):
        choices: dict = {}
        collector = Collector((), choices)
        outcome(built(name, count, **fields), given(count), dtype=dtype, collector=collector)
        return {one.shapes.split("[")[0] for one in choices}

    assert shapes(jnp.bfloat16) == {"bfloat16" if narrow else "float32"}
    assert shapes(jnp.float32) == {"float32"}


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
def test_many_rows_lower_to_kernels_for_a_gpu_in_bfloat16_alone():
    graph, params = nnx.split(built("info_nce", 2))
    h100 = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100", compute_capability="9.0")

    def text(dtype):
        told = Context(device=h100, dtype=dtype)

        def loss(params, vectors):
            streams = {f"m{n}": Stream(v) for n, v in enumerate(vectors)}
            return scalar(
                nnx.merge(graph, params)(streams, rows=jnp.ones(4096, bool), context=told)
            )

        both = jax.jit(jax.grad(loss, (0, 1)))
        given = [jax.ShapeDtypeStruct((4096, WIDTH), dtype)] * 2
        with compiled_for():
            return both.trace(params, given).lower(lowering_platforms=("cuda",)).as_text()

    assert text(jnp.bfloat16).count("__gpu$xla.gpu.triton") >= 2  # both passes
    assert "triton" not in text(jnp.float32)

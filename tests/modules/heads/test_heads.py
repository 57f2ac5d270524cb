import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.standalone import standalone
from fusekit.stream import Span, Stream, sequence, vector
from fusekit_modules.heads.classifier import ClassifierSpec
from fusekit_modules.heads.multilabel import MultilabelSpec
from fusekit_modules.heads.projection import ProjectionSpec
from fusekit_modules.heads.regressor import RegressorSpec
from fusekit_modules.heads.token_classifier import TokenClassifierSpec
from fusekit_modules.heads.token_regressor import TokenRegressorSpec

VECTORS = [
    ClassifierSpec(input="x", classes=3),
    ClassifierSpec(input="x", classes=("a", "b"), hidden=4, activation="tanh"),
    MultilabelSpec(input="x", classes=3, bias=False),
    RegressorSpec(input="x", hidden=4, activation="tanh"),
    ProjectionSpec(input="x", width=3),
    ProjectionSpec(input="x", width=3, normalise=False),
]
TOKENS = [
    TokenClassifierSpec(input="x", classes=3),
    TokenRegressorSpec(input="x", width=2, hidden=4, activation="tanh"),
]


def wide(module):
    """The same module with random parameters in float64."""
    graph, params = nnx.split(module, nnx.Param)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
    return nnx.merge(graph, params)


def reference(module, spec, x):
    def affine(layer, x):
        y = x @ np.asarray(layer.kernel[...])
        return y if layer.bias is None else y + np.asarray(layer.bias[...])

    if spec.hidden is not None:
        x = np.tanh(affine(module.hidden, x))
    y = affine(module.out, x)
    if getattr(spec, "normalise", False):
        y = y / np.sqrt((y**2).sum(axis=-1, keepdims=True))
    return y


def check_gradient(module, stream, plain):
    """Of a sum over outputs, against central differences of what NumPy alone gives, `plain`."""

    def loss(values):
        out = module({"input": stream.with_(values=values)}, context=Context())
        return jnp.sum(jnp.sin(out.values))

    def by_hand(values):
        return np.sin(plain(values)).sum()

    at = np.asarray(stream.values)
    grad, numeric = np.asarray(jax.grad(loss)(stream.values)), np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-5
        numeric[index] = (by_hand(at + step) - by_hand(at - step)) / 2e-5
    np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("spec", VECTORS)
def test_vectors_against_numpy(spec):
    with jax.enable_x64(True):
        module = wide(standalone(spec, {"input": vector(5)}, rngs=nnx.Rngs(0)))
        x = np.random.default_rng(1).normal(size=(4, 5))
        out = module({"input": Stream(jnp.asarray(x))}, context=Context())
        np.testing.assert_allclose(out.values, reference(module, spec, x), rtol=1e-10)
        check_gradient(module, Stream(jnp.asarray(x[:2])), lambda v: reference(module, spec, v))
    signature = spec.infer({"input": vector(5)})
    assert signature.shape == out.values.shape[1:]
    assert out.presence is None


@pytest.mark.parametrize("spec", TOKENS)
def test_tokens_against_numpy(spec):
    spans = (Span("", 1, readout=True), Span("words", 3))
    given = sequence(4, 5, spans=spans, padded=True, optional=True)
    mask = jnp.asarray([[True, True, True, False], [True] * 4])
    presence = jnp.asarray([True, False])
    with jax.enable_x64(True):
        module = wide(standalone(spec, {"input": given}, rngs=nnx.Rngs(0)))
        x = np.random.default_rng(1).normal(size=(2, 4, 5))
        stream = Stream(jnp.asarray(x), mask=mask, presence=presence, spans=spans)
        out = module({"input": stream}, context=Context())
        valid = np.asarray(mask[:, 1:] & presence[:, None])

        def plain(values):
            return np.where(valid[..., None], reference(module, spec, values[:, 1:]), 0)

        np.testing.assert_allclose(out.values, plain(x), rtol=1e-10)
        check_gradient(module, stream, plain)
        poisoned = np.where(np.asarray(stream.valid())[..., None], x, np.nan)
        again = module({"input": stream.with_(values=jnp.asarray(poisoned))}, context=Context())
        np.testing.assert_array_equal(again.values, out.values)
    signature = spec.infer({"input": given})
    assert signature.shape == out.values.shape[1:]
    assert signature.spans == out.spans == (Span("words", 3),)
    assert signature.padded
    assert signature.optional


@pytest.mark.parametrize("spec", VECTORS)
def test_absent_rows_are_zero_and_stay_absent(spec):
    inputs = {"input": vector(5, optional=True)}
    module = standalone(spec, inputs, rngs=nnx.Rngs(0))
    presence = jnp.asarray([True, False])
    values = jnp.asarray([[1.0] * 5, [np.nan] * 5])
    run = jax.jit(lambda v: module({"input": Stream(v, presence=presence)}, context=Context()))
    out = run(values)
    assert np.all(np.asarray(out.values)[1] == 0)
    assert np.isfinite(out.values).all()
    np.testing.assert_array_equal(out.presence, presence)
    np.testing.assert_array_equal(run(values.at[1].set(1e30)).values, out.values)
    assert spec.infer(inputs).optional


@pytest.mark.parametrize("spec", VECTORS)
def test_a_sequence_is_refused_with_advice(spec):
    with pytest.raises(WiringError) as error:
        spec.infer({"input": sequence(3, 5)})
    assert error.value.problem.expected.endswith(".mean .first .last")
    assert error.value.problem.path == ("input",)


def test_a_vector_is_refused_for_tokens():
    with pytest.raises(WiringError, match="sequence is due"):
        TOKENS[0].infer({"input": vector(5)})


def test_zeros_give_zero_logits_yet_gradient():
    """The kernel's gradient is that of softmax and cross-entropy: what the loss pulls at logits of
    zero, 1/3 - one-hot, times the features."""
    spec = ClassifierSpec(input="x", classes=3, init="zeros")
    module = standalone(spec, {"input": vector(5)}, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    out = module({"input": Stream(jnp.asarray(x))}, context=Context())
    np.testing.assert_array_equal(out.values, np.zeros((2, 3)))
    np.testing.assert_array_equal(module.out.kernel[...], np.zeros((5, 3)))

    def loss(module):
        logits = module({"input": Stream(jnp.asarray(x))}, context=Context()).values
        return -jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(2), jnp.asarray([2, 0])])

    pull = 1 / 3 - np.eye(3)[[2, 0]]
    gradient = nnx.grad(loss)(module)["out"]
    np.testing.assert_allclose(gradient["kernel"][...], x.T @ pull, atol=1e-6)
    np.testing.assert_allclose(gradient["bias"][...], pull.sum(0), atol=1e-6)


def test_projection_of_zeros_has_finite_gradient():
    module = standalone(ProjectionSpec(input="x", width=3), {"input": vector(5)}, rngs=nnx.Rngs(0))

    def total(values):
        return jnp.sum(module({"input": Stream(values)}, context=Context()).values)

    grad = jax.grad(total)(jnp.zeros((1, 5)))
    np.testing.assert_array_equal(grad, np.zeros((1, 5)))


def test_dropout_in_training_only():
    spec = ClassifierSpec(input="x", classes=3, dropout=0.5)
    module = standalone(spec, {"input": vector(64)}, rngs=nnx.Rngs(0))
    x = {"input": Stream(jnp.ones((2, 64)))}
    train = Context(mode="train", key=jax.random.key(0), path="head")
    plain = module(x, context=Context()).values
    assert not np.allclose(module(x, context=train).values, plain)
    np.testing.assert_array_equal(module(x, context=Context(mode="predict")).values, plain)


def test_names_of_classes_travel():
    assert VECTORS[1].infer({"input": vector(5)}).names == ("a", "b")
    with pytest.raises(ValueError, match="given once"):
        ClassifierSpec(input="x", classes=("a", "a"))


def test_parameters_have_axes_and_canonical_names():
    module = standalone(VECTORS[1], {"input": vector(5)}, rngs=nnx.Rngs(0))
    found = {
        ".".join(map(str, path)): leaf.get_metadata()["axes"]
        for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))
    }
    assert found == {
        "hidden.kernel": ("embed", "mlp"),
        "hidden.bias": ("mlp",),
        "out.kernel": ("mlp", None),
        "out.bias": (None,),
    }

"""Late fusion and the product of experts against float64 references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence, vector
from fusekit_modules.fusion.late import LateSpec
from fusekit_modules.fusion.product_of_experts import ProductOfExpertsSpec
from tests.modules.fusion.harness import Case, check, inputs_of, patterns
from tests.reference import decisions

PRIOR = (0.5, 0.3, 0.2)


@pytest.mark.parametrize(
    "combine", ["mean_logits", "mean_log_probabilities", "mean_probabilities", "product"]
)
def test_late(combine):
    prior = PRIOR if combine == "product" else ()
    spec = LateSpec(combine=combine, prior=prior)
    check(spec, [3, 3, 3], lambda p, xs: decisions.late(combine, np.array(PRIOR), xs))


def test_product_divides_by_the_prior():
    """Two experts that only repeat the prior leave the prior."""
    case = Case(LateSpec(combine="product", prior=PRIOR), {"a": vector(3), "b": vector(3)})
    logits = np.log(np.array([PRIOR]))
    out = case.run({"a": logits, "b": logits + 2.0}, None)
    np.testing.assert_allclose(np.exp(out["out"].values), [PRIOR], rtol=1e-12)


def test_late_refuses():
    with pytest.raises(WiringError, match="embed"):
        LateSpec().infer({"a": vector(3), "b": vector(2)})
    with pytest.raises(WiringError, match="prior"):
        LateSpec(prior=(1.0, 1.0)).infer({"a": vector(3), "b": vector(3)})
    with pytest.raises(WiringError) as error:
        LateSpec().infer({"a": vector(3), "b": sequence(2, 3)})
    assert error.value.problem.expected == "a vector: pool it with .mean .first .last"


@pytest.mark.parametrize("prior", ["normal", "none"])
def test_product_of_experts(prior):
    ports = ("out", "mean", "log_variance")
    spec = ProductOfExpertsSpec(prior=prior)

    def reference(p, xs):
        return decisions.product_of_experts(xs, prior=prior == "normal")

    check(spec, [4, 4, 4], reference, ports=ports)


def test_sample_is_reparameterised():
    case = Case(ProductOfExpertsSpec(), {"a": vector(4)})
    streams = case.streams({"a": np.ones((2000, 4), "float32")}, None)
    out = case.call({}, streams, "train")
    mean, variance = out["mean"].values[0], np.exp(out["log_variance"].values[0])
    draws = np.asarray(out["sample"].values)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=5 * (variance.max() / 2000) ** 0.5)
    np.testing.assert_allclose(draws.var(axis=0), variance, rtol=0.2)
    still = case.call({}, streams, "evaluate")
    np.testing.assert_array_equal(still["sample"].values, still["mean"].values)


def test_sample_passes_gradients_to_mean_and_variance():
    """Against central differences of mean + deviation * noise, the noise held as it fell."""
    inputs = {"a": vector(4, optional=True), "b": vector(4, optional=True)}
    case, presence = Case(ProductOfExpertsSpec(), inputs), patterns(2)
    arrays, weights = inputs_of(case, 4), case.rng.normal(size=(4, 2))

    def reference(arrays, noise):
        rows = []
        for b, row in enumerate(presence):
            xs = {k: array[b] for k, array in enumerate(arrays.values()) if row[k]}
            one = decisions.product_of_experts(xs, prior=True) if xs else None
            some = one and one["mean"] + np.exp(one["log_variance"] / 2) * noise[b]
            rows.append(np.zeros(2) if some is None else some)
        return np.stack(rows)

    def sample(arrays):
        return case.plain({}, case.streams(arrays, presence), "train")["sample"].values

    with jax.enable_x64(True):
        given = {role: jnp.asarray(array) for role, array in arrays.items()}
        got = np.asarray(sample(given))
        grads = jax.grad(lambda arrays: jnp.sum(sample(arrays) * weights))(given)
    noise = got - reference(arrays, np.zeros((4, 2)))
    noise /= reference(arrays, np.ones((4, 2))) - reference(arrays, np.zeros((4, 2))) + 1e-300
    for role, array in arrays.items():
        step = 1e-5 * case.rng.normal(size=array.shape)
        ahead, behind = (reference({**arrays, role: array + s * step}, noise) for s in (1, -1))
        want = np.sum((ahead - behind) * weights) / 2
        np.testing.assert_allclose(
            np.sum(np.asarray(grads[role]) * step), want, rtol=1e-6, err_msg=role
        )


def test_certain_experts_stay_finite():
    case = Case(ProductOfExpertsSpec(), {"a": vector(2), "b": vector(2)})
    certain = np.array([[3.0, -900.0]])
    out = case.run({"a": certain, "b": np.array([[1.0, 900.0]])}, None)
    np.testing.assert_allclose(out["out"].values, [[3.0, -900.0]])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))

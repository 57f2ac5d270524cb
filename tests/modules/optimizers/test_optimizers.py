"""Steps of each optimizer against formulas in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fusekit_modules.optimizers.adafactor import AdafactorSpec
from fusekit_modules.optimizers.adagrad import AdagradSpec
from fusekit_modules.optimizers.adam import AdamSpec
from fusekit_modules.optimizers.adamax import AdamaxSpec
from fusekit_modules.optimizers.adamw import AdamWSpec
from fusekit_modules.optimizers.lamb import LambSpec
from fusekit_modules.optimizers.lion import LionSpec
from fusekit_modules.optimizers.muon import MuonSpec
from fusekit_modules.optimizers.nadam import NadamSpec
from fusekit_modules.optimizers.radam import RadamSpec
from fusekit_modules.optimizers.rmsprop import RmsPropSpec
from fusekit_modules.optimizers.sgd import SgdSpec

RATE = (0.1, 0.05, 0.2)
RNG = np.random.default_rng(0)
START = RNG.normal(size=(4, 3))
GRADS = RNG.normal(size=(3, 4, 3))


def schedule(step):
    return jnp.asarray(RATE)[step]


def trained(spec, start=START, grads=GRADS):
    with jax.enable_x64(True):
        optimizer = spec.build(schedule)
        params = jnp.asarray(start)
        state = optimizer.init(params)
        for grad in grads:
            updates, state = optimizer.update(jnp.asarray(grad), state, params)
            params = optax.apply_updates(params, updates)
        return np.asarray(params)


def adam(spec, decay=0.0, trust=False):
    p, m, v = START.copy(), np.zeros_like(START), np.zeros_like(START)
    for t, (g, lr) in enumerate(zip(GRADS, RATE, strict=True), 1):
        m = spec.b1 * m + (1 - spec.b1) * g
        v = spec.b2 * v + (1 - spec.b2) * g**2
        mean = m / (1 - spec.b1**t)
        if getattr(spec, "nesterov", spec.type == "nadam"):
            mean = spec.b1 * m / (1 - spec.b1 ** (t + 1)) + (1 - spec.b1) * g / (1 - spec.b1**t)
        step = mean / (np.sqrt(v / (1 - spec.b2**t)) + spec.eps) + decay * p
        if trust:
            step = step * np.linalg.norm(p) / np.linalg.norm(step)
        p = p - lr * step
    return p


@pytest.mark.parametrize("spec", [AdamSpec(), AdamSpec(b1=0.5, b2=0.9, eps=1e-3)])
def test_adam(spec):
    np.testing.assert_allclose(trained(spec), adam(spec), rtol=1e-6)


@pytest.mark.parametrize("spec", [AdamWSpec(), AdamWSpec(weight_decay=0.3, nesterov=True)])
def test_adamw(spec):
    np.testing.assert_allclose(trained(spec), adam(spec, spec.weight_decay), rtol=1e-6)


@pytest.mark.parametrize("spec", [NadamSpec(), NadamSpec(b1=0.5, weight_decay=0.3)])
def test_nadam(spec):
    np.testing.assert_allclose(trained(spec), adam(spec, spec.weight_decay), rtol=1e-6)


@pytest.mark.parametrize("spec", [AdagradSpec(), AdagradSpec(start=0.0, eps=1e-3)])
def test_adagrad(spec):
    p, total = START.copy(), np.full_like(START, spec.start)
    for g, lr in zip(GRADS, RATE, strict=True):
        total = total + g**2
        p = p - lr * g / np.sqrt(total + spec.eps)
    np.testing.assert_allclose(trained(spec), p, rtol=1e-6)


@pytest.mark.parametrize("spec", [AdamaxSpec(), AdamaxSpec(b2=0.5, weight_decay=0.3)])
def test_adamax(spec):
    p, m, most = START.copy(), np.zeros_like(START), np.zeros_like(START)
    for t, (g, lr) in enumerate(zip(GRADS, RATE, strict=True), 1):
        m = spec.b1 * m + (1 - spec.b1) * g
        most = np.maximum(spec.b2 * most, np.abs(g) + spec.eps)
        p = p - lr * (m / (1 - spec.b1**t) / most + spec.weight_decay * p)
    np.testing.assert_allclose(trained(spec), p, rtol=1e-6)


@pytest.mark.parametrize("spec", [RadamSpec(), RadamSpec(b2=0.99, threshold=6, weight_decay=0.3)])
def test_radam(spec):
    """From the fifth or sixth step on the mean of squares is trusted; rates stay at the last."""
    p, m, v = START.copy(), np.zeros_like(START), np.zeros_like(START)
    longest = 2 / (1 - spec.b2) - 1
    grads, trusted = np.random.default_rng(3).normal(size=(8, 4, 3)), 0
    for t, g in enumerate(grads, 1):
        lr = RATE[min(t - 1, 2)]
        m = spec.b1 * m + (1 - spec.b1) * g
        v = spec.b2 * v + (1 - spec.b2) * g**2
        step = m / (1 - spec.b1**t)
        length = longest - 2 * t * spec.b2**t / (1 - spec.b2**t)
        if length >= spec.threshold:
            trusted += 1
            r = (length - 4) * (length - 2) * longest
            r = np.sqrt(r / ((longest - 4) * (longest - 2) * length))
            step = r * step / (np.sqrt(v / (1 - spec.b2**t)) + spec.eps)
        p = p - lr * (step + spec.weight_decay * p)
    assert 0 < trusted < 8
    np.testing.assert_allclose(trained(spec, START, grads), p, rtol=1e-6)


def test_lamb():
    spec = LambSpec(weight_decay=0.2)
    np.testing.assert_allclose(trained(spec), adam(spec, 0.2, trust=True), rtol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sgd(nesterov, decay):
    spec = SgdSpec(momentum=0.9, nesterov=nesterov, weight_decay=decay)
    p, velocity = START.copy(), np.zeros_like(START)
    for g, lr in zip(GRADS, RATE, strict=True):
        g = g + decay * p
        velocity = 0.9 * velocity + g
        p = p - lr * (g + 0.9 * velocity if nesterov else velocity)
    np.testing.assert_allclose(trained(spec), p, rtol=1e-6)


def test_plain_sgd():
    expected = START - np.einsum("s,sij->ij", RATE, GRADS)
    np.testing.assert_allclose(trained(SgdSpec()), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="nesterov"):
        SgdSpec(nesterov=True)


def test_lion():
    spec = LionSpec(weight_decay=0.1)
    p, m = START.copy(), np.zeros_like(START)
    for g, lr in zip(GRADS, RATE, strict=True):
        p = p - lr * (np.sign(0.9 * m + 0.1 * g) + 0.1 * p)
        m = 0.99 * m + 0.01 * g
    np.testing.assert_allclose(trained(spec), p, rtol=1e-6)


@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop(centered):
    spec = RmsPropSpec(centered=centered, momentum=0.5)
    p, v, mean, velocity = START.copy(), *(np.zeros_like(START) for _ in range(3))
    for g, lr in zip(GRADS, RATE, strict=True):
        v = 0.9 * v + 0.1 * g**2
        mean = 0.9 * mean + 0.1 * g
        spread = v - mean**2 if centered else v
        velocity = 0.5 * velocity + lr * g / (np.sqrt(spread) + 1e-8)
        p = p - velocity
    np.testing.assert_allclose(trained(spec), p, rtol=1e-5)


@pytest.mark.parametrize("relative", [False, True])
def test_adafactor(relative):
    spec = AdafactorSpec(factor_from=2, relative=relative, weight_decay=0.1)
    p, rows, columns = START.copy(), np.zeros(4), np.zeros(3)
    for t, (g, lr) in enumerate(zip(GRADS, RATE, strict=True), 1):
        beta = 1 - t**-0.8
        square = g**2 + 1e-30
        rows = beta * rows + (1 - beta) * square.mean(axis=1)
        columns = beta * columns + (1 - beta) * square.mean(axis=0)
        step = g / np.sqrt(np.outer(rows, columns) / rows.mean())
        step = step / max(1.0, np.sqrt((step**2).mean()))
        scale = max(1e-3, np.sqrt((p**2).mean())) if relative else 1.0
        p = p - lr * scale * step - lr * 0.1 * p
    np.testing.assert_allclose(trained(spec), p, rtol=1e-5)


@pytest.mark.parametrize("rms", [None, 0.2])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_on_a_matrix(rms, nesterov):
    spec = MuonSpec(weight_decay=0.1, nesterov=nesterov, rms=rms)
    p, m = START.copy(), np.zeros_like(START)
    for t, (g, lr) in enumerate(zip(GRADS, RATE, strict=True), 1):
        m = 0.95 * m + 0.05 * g
        mean = m / (1 - 0.95**t)
        if nesterov:
            mean = 0.95 * m / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t)
        x = mean.T / (np.linalg.norm(mean) + 1e-8)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
        step = x.T * (np.sqrt(max(1, 3 / 4)) if rms is None else rms * np.sqrt(4))
        p = p - lr * (step + 0.1 * p)
    np.testing.assert_allclose(trained(spec), p, rtol=1e-4, atol=1e-6)


def test_muon_takes_adamw_for_vectors():
    spec = MuonSpec(weight_decay=0.1, nesterov=False)
    twin = AdamWSpec(weight_decay=0.1)
    given = START[0], GRADS[:, 0]
    np.testing.assert_allclose(trained(spec, *given), trained(twin, *given), rtol=1e-6)


EVERY = [
    AdafactorSpec(weight_decay=0.1), AdagradSpec(), AdamSpec(), AdamWSpec(), AdamaxSpec(),
    LambSpec(), LionSpec(), MuonSpec(), NadamSpec(), RadamSpec(), RmsPropSpec(),
    SgdSpec(momentum=0.9),
]  # fmt: skip


@pytest.mark.parametrize("spec", EVERY)
def test_zero_gradient_of_zero_parameters_stays_finite(spec):
    zeros = np.zeros((4, 3))
    np.testing.assert_array_equal(trained(spec, zeros, np.zeros((3, 4, 3))), zeros)


@pytest.mark.parametrize("spec", EVERY)
def test_a_number_serves_as_learning_rate(spec):
    optimizer = spec.build(0.1)
    params = jnp.ones((4, 3))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert float(jnp.sum(updates)) < 0
    assert type(spec).model_validate(spec.model_dump()) == spec

import math

import jax
import numpy as np
import optax
import pytest

from fusekit.errors import WiringError
from fusekit_modules.schedules.constant import ConstantSpec
from fusekit_modules.schedules.cosine import CosineSpec
from fusekit_modules.schedules.exponential import ExponentialSpec
from fusekit_modules.schedules.inverse_sqrt import InverseSqrtSpec
from fusekit_modules.schedules.linear import LinearSpec
from fusekit_modules.schedules.one_cycle import OneCycleSpec
from fusekit_modules.schedules.piecewise import PiecewiseSpec
from fusekit_modules.schedules.polynomial import PolynomialSpec
from fusekit_modules.schedules.restarts import RestartsSpec
from fusekit_modules.schedules.step import StepSpec

CASES = [
    (ConstantSpec(), 10, {0: 1, 9: 1, 50: 1}),
    (ConstantSpec(warmup=4), 10, {0: 0.2, 1: 0.4, 3: 0.8, 4: 1, 9: 1}),
    (CosineSpec(), 10, {0: 1, 5: 0.5, 9: (1 + math.cos(0.9 * math.pi)) / 2, 10: 0, 11: 0}),
    (
        CosineSpec(warmup=0.2, final=0.1),
        10,
        {0: 1 / 3, 1: 2 / 3, 2: 1, 4: 0.1 + 0.45 * (1 + math.cos(math.pi / 4)), 10: 0.1},
    ),
    (LinearSpec(warmup=2, final=0.5), 10, {0: 1 / 3, 2: 1, 6: 0.75, 10: 0.5, 20: 0.5}),
    (StepSpec(), 8, {0: 1, 3: 1, 4: 0.1, 5: 0.1, 6: 0.01, 7: 0.01}),
    (StepSpec(at=(3, 6), factor=0.5, warmup=1), 10, {0: 0.5, 1: 1, 2: 1, 3: 0.5, 5: 0.5, 6: 0.25}),
    (InverseSqrtSpec(warmup=4), 100, {0: 0.2, 4: 1, 16: 0.5, 36: 1 / 3, 64: 0.25}),
    (InverseSqrtSpec(timescale=10), 100, {0: 1, 30: 0.5, 80: 1 / 3}),
    (
        OneCycleSpec(warmup=4, start=0.2, final=0.0),
        12,
        {0: 0.2, 2: 0.6, 4: 1, 8: 0.5, 6: (1 + math.cos(math.pi / 4)) / 2, 12: 0, 13: 0},
    ),
    (OneCycleSpec(), 10, {0: 0.04, 3: 1, 10: 1e-4}),
    (ExponentialSpec(every=4, factor=0.5, warmup=1), 10, {0: 0.5, 1: 1, 3: 0.5**0.5, 9: 0.25}),
    (ExponentialSpec(every=4, factor=0.5, stairs=True, final=0.3), 10, {3: 1, 4: 0.5, 8: 0.3}),
    (PolynomialSpec(warmup=2, final=0.1), 10, {0: 1 / 3, 2: 1, 6: 0.325, 10: 0.1, 12: 0.1}),
    (RestartsSpec(cycles=2), 8, {0: 1, 2: 0.5, 4: 1, 6: 0.5, 8: 0, 9: 0}),
    (
        RestartsSpec(cycles=2, longer=3.0, lower=0.5, final=0.1, warmup=2),
        10,
        {0: 1 / 3, 1: 2 / 3, 2: 1, 3: 0.55, 4: 0.5, 7: 0.3, 10: 0.1},
    ),
    (PiecewiseSpec(), 8, {0: 1, 2: 0.55, 4: 0.1, 7: 0.1}),
    (PiecewiseSpec(at=(0, 2, 4), factors=(0, 1, 0.5)), 8, {0: 0, 1: 0.5, 2: 1, 3: 0.75, 9: 0.5}),
    (PiecewiseSpec(at=(2, 4), factors=(0.5, 1), between="hold"), 8, {1: 1, 2: 0.5, 3: 0.5, 4: 1}),
]


@pytest.mark.parametrize(("spec", "steps", "factors"), CASES)
def test_at_chosen_steps(spec, steps, factors):
    schedule = spec.build(steps)
    for step, factor in factors.items():
        np.testing.assert_allclose(schedule(step), factor, rtol=1e-5, atol=1e-7, err_msg=str(step))
    compiled = jax.jit(schedule)
    for step in factors:
        np.testing.assert_allclose(compiled(step), schedule(step), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("spec", "steps", "factors"), CASES)
def test_never_above_the_peak(spec, steps, factors):
    schedule = spec.build(steps)
    values = np.array([schedule(step) for step in range(steps + 2)])
    assert values.max() <= 1 + 1e-6
    assert values.min() >= 0


@pytest.mark.parametrize("kind", [CosineSpec, LinearSpec, ConstantSpec, OneCycleSpec])
@pytest.mark.parametrize("steps", [1, 4])
def test_all_of_a_stage_may_be_warmup(kind, steps):
    assert np.isfinite(kind(warmup=steps).build(steps)(np.arange(steps + 1))).all()


def test_spans_must_fit():
    with pytest.raises(WiringError, match="longer than the stage"):
        CosineSpec(warmup=11).build(10)
    with pytest.raises(WiringError, match="at is longer"):
        StepSpec(at=(20,)).build(10)
    for wrong in (1.0, 1.5, -1, True):
        with pytest.raises(ValueError, match="warmup"):
            CosineSpec.model_validate({"warmup": wrong})
    with pytest.raises(WiringError, match="do not ascend"):
        PiecewiseSpec(at=(4, 0.5), factors=(1, 0)).build(8)
    with pytest.raises(ValueError, match="one factor a point"):
        PiecewiseSpec(at=(1, 2), factors=(1,))


def _cosine(length, height=1.0):
    return {"init_value": height, "peak_value": height, "warmup_steps": 0, "decay_steps": length,
            "end_value": 0.1}  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "theirs"),
    [
        (ExponentialSpec(every=5, factor=0.7), optax.exponential_decay(1.0, 5, 0.7)),
        (
            ExponentialSpec(every=5, factor=0.7, stairs=True, final=0.4),
            optax.exponential_decay(1.0, 5, 0.7, staircase=True, end_value=0.4),
        ),
        (PolynomialSpec(power=0.9, final=0.2), optax.polynomial_schedule(1.0, 0.2, 0.9, 24)),
        (
            RestartsSpec(cycles=2, longer=2.0, lower=0.5, final=0.1),
            optax.sgdr_schedule([_cosine(8), _cosine(16, 0.5)]),
        ),
        (
            PiecewiseSpec(at=(6, 18), factors=(0.5, 0.25)),
            optax.piecewise_interpolate_schedule("linear", 1.0, {6: 0.5, 18: 0.5}),
        ),
        (
            PiecewiseSpec(at=(6, 18), factors=(0.5, 0.25), between="hold"),
            optax.piecewise_constant_schedule(1.0, {6: 0.5, 18: 0.5}),
        ),
    ],
)
def test_against_optax(spec, theirs):
    steps = np.arange(24)
    own = spec.build(24)(steps)
    np.testing.assert_allclose(own, [theirs(step) for step in steps], rtol=1e-5, atol=1e-6)

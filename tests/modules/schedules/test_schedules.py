import math

import jax
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit_modules.schedules.constant import ConstantSpec
from fusekit_modules.schedules.cosine import CosineSpec
from fusekit_modules.schedules.inverse_sqrt import InverseSqrtSpec
from fusekit_modules.schedules.linear import LinearSpec
from fusekit_modules.schedules.one_cycle import OneCycleSpec
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

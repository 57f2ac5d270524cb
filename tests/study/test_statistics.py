"""Intervals against scipy, hand-worked numbers and exact enumeration."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fusekit.study.statistics import (
    Interval,
    draws,
    paired_t_interval,
    percentile_interval,
    t_interval,
)

OURS = [0.91, 0.88, 0.93, 0.90, 0.89]
THEIRS = [0.85, 0.86, 0.88, 0.84, 0.87]


def test_t_by_hand():
    # mean 2, s = 1, n = 3: 2 ± 4.30265 / sqrt(3)
    found = t_interval([1.0, 2.0, 3.0])
    np.testing.assert_allclose(
        [found.mean, found.low, found.high], [2.0, -0.484138, 4.484138], atol=1e-6
    )
    np.testing.assert_allclose(found.half, 2.484138, atol=1e-6)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_t_against_scipy(confidence):
    found = t_interval(OURS, confidence)
    low, high = stats.t.interval(confidence, len(OURS) - 1, np.mean(OURS), stats.sem(OURS))
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-12)


def test_paired_t_against_scipy():
    found = paired_t_interval(OURS, THEIRS)
    want = stats.ttest_rel(OURS, THEIRS).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], [want.low, want.high], rtol=1e-12)
    assert found.excludes(0) == (stats.ttest_rel(OURS, THEIRS).pvalue < 0.05)


def test_pairing_narrows_the_interval():
    shift = np.array([0.0, 0.3, -0.2, 0.1, 0.25])
    paired = paired_t_interval(np.array(OURS) + shift, np.array(THEIRS) + shift)
    assert paired.half < 0.2 * t_interval(np.array(OURS) + shift).half


def test_too_little_to_tell():
    one = t_interval([0.7])
    assert one.mean == 0.7
    assert np.isnan([one.low, one.high]).all()
    assert not one.excludes(0)
    assert np.isnan(t_interval([]).mean)


def test_equal_values_have_no_width():
    assert t_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5)


def test_bootstrap_of_three_rows_is_the_enumeration():
    """All 27 samples of three rows, equally likely, against many draws."""
    values = np.array([0.0, 1.0, 5.0])
    exact = [values[list(rows)].mean() for rows in itertools.product(range(3), repeat=3)]
    found = draws(3, [lambda index: values[index].mean()], resamples=20_000)[:, 0]
    np.testing.assert_allclose(found.mean(), np.mean(exact), atol=0.03)
    np.testing.assert_allclose(found.std(), np.std(exact), atol=0.03)
    for value in set(exact):
        share = np.mean(np.isclose(found, value))
        np.testing.assert_allclose(share, np.mean(np.isclose(exact, value)), atol=0.012)


def test_bootstrap_against_scipy():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0.3, 1, 200), rng.normal(0, 1, 200)
    found = draws(200, [lambda i: ours[i].mean(), lambda i: theirs[i].mean()], resamples=4000)
    mine = percentile_interval(np.mean(ours - theirs), found[:, 0] - found[:, 1])
    want = stats.bootstrap(
        (ours - theirs,), np.mean, n_resamples=4000, method="percentile", rng=2
    ).confidence_interval
    np.testing.assert_allclose([mine.low, mine.high], [want.low, want.high], atol=0.02)


def test_percentiles_by_hand():
    found = percentile_interval(50.0, np.arange(101.0), confidence=0.9)
    np.testing.assert_allclose([found.mean, found.low, found.high], [50.0, 5.0, 95.0])
    assert np.isnan(percentile_interval(1.0, [1.0, np.nan]).low)


def test_draws_are_paired_seeded_and_ticked():
    ticks = []
    seen = [lambda i: float(i.sum()), lambda i: float(i.sum())]
    found = draws(9, seen, resamples=20, seed=4, tick=lambda: ticks.append(1))
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    np.testing.assert_array_equal(found, draws(9, seen, resamples=20, seed=4))
    assert len(ticks) == 20
    assert not np.array_equal(found, draws(9, seen, resamples=20, seed=5))


def test_groups_are_drawn_whole():
    """All four samples of two groups of unequal size, equally likely."""
    groups, values = np.array([7, 2, 2]), np.array([0.0, 1.0, 5.0])
    found = draws(3, [lambda i: values[i].sum()], resamples=4000, groups=groups)[:, 0]
    for total, share in ((0.0, 0.25), (6.0, 0.5), (12.0, 0.25)):
        np.testing.assert_allclose(np.mean(found == total), share, atol=0.03)


def test_rows_that_repeat_their_group_are_not_independent():
    """Ten groups of equal rows: as wide as ten rows, and wider than a hundred."""
    group = np.repeat(np.arange(10), 10)
    values = np.random.default_rng(0).normal(size=10)[group]
    mean = [lambda i: values[i].mean()]
    by_row, by_group = (draws(100, mean, groups=g)[:, 0].std() for g in (None, group))
    assert by_group == pytest.approx(by_row * 10**0.5, rel=0.1)

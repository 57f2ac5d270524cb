import numpy as np
import pytest

from fusekit.data.partition import partition, whole


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_whole_numbers_by_largest_remainder():
    assert whole(np.array([2.6, 1.3, 1.1]), 5).tolist() == [3, 1, 1]
    assert whole(np.array([-0.4, 1.2, 2.2]), 3).tolist() == [0, 1, 2]


def test_shares_are_exact():
    part = partition(103, [0.7, 0.2, 0.1], rng())
    assert np.bincount(part).tolist() == [72, 21, 10]


@pytest.mark.parametrize("seed", range(3))
def test_classes_keep_their_shares(seed: int):
    classes = np.repeat([0, 1, 2, 3], [50, 7, 30, 13])
    part = partition(100, [0.6, 0.4], rng(seed), classes=classes)
    for value, count in enumerate([50, 7, 30, 13]):
        assert abs((part[classes == value] == 0).sum() - 0.6 * count) <= 1
    assert (part == 0).sum() == 60


def test_rows_depend_on_the_seed_only():
    a, b = (partition(50, [0.5, 0.5], rng(3)) for _ in range(2))
    assert a.tolist() == b.tolist()
    assert a.tolist() != partition(50, [0.5, 0.5], rng(4)).tolist()


def test_groups_stay_together_and_are_balanced():
    groups = np.repeat([f"g{k:02d}" for k in range(20)], np.arange(1, 21))
    classes = rng(1).integers(0, 2, len(groups))
    part = partition(len(groups), [0.25] * 4, rng(), classes=classes, groups=groups)
    for name in np.unique(groups):
        assert len(set(part[groups == name])) == 1
    np.testing.assert_allclose(np.bincount(part), len(groups) / 4, atol=6)
    for value in (0, 1):
        share = np.bincount(part[classes == value])
        np.testing.assert_allclose(share, (classes == value).sum() / 4, atol=6)

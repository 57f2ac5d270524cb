import numpy as np
import pytest

from fusekit.data.missing import Missing
from fusekit.data.pipeline import Pipeline
from fusekit.errors import DataError, SpecError

COUNT = 4000


def presence(fakes, missing, *, seed=0, slow=False, training=False, split="train", passes=1):
    """Presence of x and of z by row, over every pass."""
    modalities = {"x": fakes.Vector(optional=True), "label": fakes.Label()}
    source = fakes.Numbers(count=COUNT, missing=missing, slow=slow)
    pipeline = Pipeline(
        {"n": source}, modalities, batch=100, seed=seed, split=split, training=training, threads=0
    )
    found = []
    for _ in range(passes):
        seen = np.full(COUNT, -1)
        steps = iter(pipeline)
        for _ in range(len(pipeline)):
            batch = next(steps)
            stream = batch.streams["x"]
            assert not stream.values[~stream.presence].any()
            seen[batch.index[batch.valid]] = stream.presence[batch.valid]
        found.append(seen)
    return found if passes > 1 else found[0]


def test_rate_at_random(fakes):
    seen = presence(fakes, {"x": {"rate": 0.3}})
    read = seen >= 0
    assert read.sum() == 3 * COUNT // 4
    assert abs((seen[read] == 0).mean() - 0.3) < 5 * np.sqrt(0.21 / read.sum())


def test_rate_by_label(fakes):
    seen = presence(fakes, {"x": {"rate": {3: 0.9}, "given": "label", "default": 0.1}})
    three = (np.arange(COUNT) % 10 == 3) & (seen >= 0)
    other = (np.arange(COUNT) % 10 != 3) & (seen >= 0)
    assert abs((seen[three] == 0).mean() - 0.9) < 5 * np.sqrt(0.09 / three.sum())
    assert abs((seen[other] == 0).mean() - 0.1) < 5 * np.sqrt(0.09 / other.sum())


@pytest.mark.parametrize("slow", [False, True])
def test_rate_by_a_column_that_is_no_modality(fakes, slow):
    seen = presence(fakes, {"x": {"rate": {"True": 1.0}, "given": "even"}}, slow=slow)
    rows = np.flatnonzero(seen >= 0)
    assert (seen[rows] == rows % 2).all()


def test_the_pattern_belongs_to_the_row(fakes):
    missing = {"x": {"rate": 0.5}}
    once, trained = (presence(fakes, missing, training=t) for t in (False, True))
    np.testing.assert_array_equal(once, trained)
    np.testing.assert_array_equal(once, presence(fakes, missing, slow=True))
    assert (once != presence(fakes, missing, seed=1)).mean() > 0.3
    fixed = {"x": {"rate": 0.5, "seed": 9}}
    np.testing.assert_array_equal(presence(fakes, fixed), presence(fakes, fixed, seed=1))


def test_each_epoch(fakes):
    first, second = presence(fakes, {"x": {"rate": 0.5}}, training=True, passes=2)
    np.testing.assert_array_equal(first, second)
    dropout = {"x": {"rate": 0.5, "each_epoch": True}}
    first, second = presence(fakes, dropout, training=True, passes=2)
    changed = (first != second)[first >= 0].mean()
    assert abs(changed - 0.5) < 5 * np.sqrt(0.25 / 3000)


def test_splits(fakes):
    missing = {"x": {"rate": 1.0, "splits": ["train"]}}
    assert set(presence(fakes, missing)) == {-1, 0}
    assert set(presence(fakes, missing, split="test")) == {-1, 1}


def test_modalities_are_independent():
    rows, epochs = np.arange(20000), np.zeros(20000, np.int64)
    a, b = (Missing(rate=0.5).drawn("s", m, rows, epochs, None, seed=0) for m in "ab")
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(20000)


def test_not_optional(fakes):
    source = fakes.Numbers(missing={"x": {"rate": 0.1}})
    with pytest.raises(DataError, match=r"declare modalities\.x\.optional"):
        Pipeline(
            {"n": source}, {"x": fakes.Vector()}, batch=4, seed=0, split="train", training=True
        )


def test_unknown_given(fakes):
    with pytest.raises(DataError, match=r"no modality 'labell', of which missing\.x\.given speaks"):
        presence(fakes, {"x": {"rate": {"1": 0.5}, "given": "labell"}}, slow=True)
    with pytest.raises(
        DataError, match=r"no modality 'xx'.* speaks: there are x, label, .* mean x"
    ):
        presence(fakes, {"xx": {"rate": 0.5}})


def test_rates_and_given_go_together():
    with pytest.raises(SpecError, match="go together"):
        Missing(rate={"1": 0.2})
    with pytest.raises(SpecError, match="go together"):
        Missing(rate=0.2, given="label")


def test_what_evaluation_misses_does_not_depend_on_the_seed(fakes):
    missing = {"x": {"rate": 0.5}}
    zero, one = (presence(fakes, missing, seed=s, split="test") for s in (0, 1))
    np.testing.assert_array_equal(zero, one)
    own = presence(fakes, {"x": {"rate": 0.5, "seed": 9}}, split="test")
    assert (own != zero).mean() > 0.1


@pytest.mark.parametrize("slow", [False, True])
def test_a_value_that_never_occurs(fakes, slow):
    with pytest.raises(DataError, match=r"missing\.x\.rate: label is never '33': .* 0, 1, 2, 3"):
        presence(fakes, {"x": {"rate": {33: 0.9}, "given": "label"}}, slow=slow)
    with pytest.raises(DataError, match="label is never 'three'"):
        presence(fakes, {"x": {"rate": {"3": 0.9, "three": 0.9}, "given": "label"}}, slow=slow)

import numpy as np

from fusekit.data.randomness import generator, scramble, uniform


def reference(words: list[int]) -> int:
    """The same hash in Python integers."""
    keep, state = 2**64 - 1, 0
    for word in words:
        state = ((state ^ (word & keep)) + 0x9E3779B97F4A7C15) & keep
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & keep
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & keep
        state ^= state >> 31
    return state


def test_scramble_is_splitmix():
    # first output of SplitMix64 seeded with 0, as published with the generator
    assert int(scramble(0)) == 0xE220A8397B1DCDAF
    rows = np.array([0, 1, 5, 2**40], np.int64)
    assert scramble(3, rows, -1).tolist() == [reference([3, int(r), -1]) for r in rows]


def test_uniform_is_uniform_and_uncorrelated():
    rows = np.arange(20000)
    a, b = uniform(0, "a", rows), uniform(0, "b", rows)
    assert a.min() >= 0
    assert a.max() < 1
    np.testing.assert_allclose(np.histogram(a, 10, (0, 1))[0], 2000, atol=5 * np.sqrt(1800))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(20000)
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 5 / np.sqrt(20000)


def test_generator_belongs_to_its_words():
    key = np.random.Philox(key=int(scramble(1, "x", 2)))
    assert generator(1, "x", 2).random() == np.random.Generator(key).random()
    one, same, other = (generator(1, w, 2).standard_normal(3) for w in ("x", "x", "y"))
    assert one.tolist() == same.tolist()
    assert one.tolist() != other.tolist()

"""Soft targets and a queue: several steps against lists of vectors in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream, vector
from fusekit_modules.losses.info_nce import InfoNceSpec
from tests.modules.losses.harness import Stepped, differences, fast

WIDTH, BATCH, TEMPERATURE, SHARE = 3, 5, 0.5, 0.3
KEY = Signature((), dtype="int", classes=4)


def unit(v):
    return v / np.linalg.norm(v)


def mean_surprise(query, teacher, columns, right):
    """One row: the cross-entropy of its target over the columns."""
    logits = np.array([unit(query) @ c / TEMPERATURE for c in columns])
    log_p = logits - np.log(np.exp(logits).sum())
    target = np.asarray(right, float) / np.sum(right)
    if teacher is not None:
        q = np.exp([unit(teacher) @ c / TEMPERATURE for c in columns])
        target = (1 - SHARE) * target + SHARE * q / q.sum()
    return -(target * log_p).sum()


class Plain:
    """The loss as lists: what an input is compared with, and what it was compared with before."""

    def __init__(self, names, soft, direction, size, keyed):
        self.names, self.soft, self.both = names, soft, direction == "both"
        self.size, self.keyed, self.past, self.labels = size, keyed, [], []

    def value(self, arrays, keys, rows):
        index, found = np.flatnonzero(rows), []
        told = self.soft or self.names
        for a, b in itertools.permutations(range(len(self.names)), 2):
            if a > b and not self.both:
                continue
            queued = bool(self.soft) or a < b
            columns = [unit(arrays[told[b]][j]) for j in index]
            columns += [p[b] for p in self.past] if queued else []
            labels = [*keys[index], *(self.labels if queued else [])]
            for i in index:
                right = [i == j for j in index] + [False] * (len(columns) - len(index))
                if self.keyed:
                    right = [label == keys[i] for label in labels]
                teacher = arrays[self.soft[a]][i] if self.soft else None
                found.append(mean_surprise(arrays[self.names[a]][i], teacher, columns, right))
        return np.mean(found)

    def push(self, arrays, keys, rows):
        told = self.soft or self.names
        for i in np.flatnonzero(rows):
            self.past.append([unit(arrays[name][i]) for name in told])
            self.labels.append(keys[i])
        self.past, self.labels = self.past[-self.size :], self.labels[-self.size :]


CASES = [
    # inputs, teacher, direction, size of the queue, keyed
    (2, False, "first", 7, False),
    (2, True, "both", 7, True),
    (2, False, "both", 3, True),
    (3, True, "first", 6, False),
    (2, True, "both", 0, False),
]


@pytest.mark.parametrize(("count", "taught", "direction", "size", "keyed"), CASES)
def test_steps_against_lists(count, taught, direction, size, keyed):
    names = ["a", "b", "c"][:count]
    soft = [f"teacher.{name}" for name in names] if taught else []
    fields = {"soft": soft, "soft_weight": SHARE, "queue": size, "direction": direction}
    spec = InfoNceSpec(
        inputs=names,
        temperature=TEMPERATURE,
        learn=False,
        positives="batch.key" if keyed else None,
        **fields,
    )
    inputs = {name: vector(WIDTH) for name in [*names, *soft]}
    plain, rng = Plain(names, soft, direction, size, keyed), np.random.default_rng(0)
    with jax.enable_x64(True):
        stepped = Stepped(spec, inputs | ({"positives": KEY} if keyed else {}))
        for step in range(4):
            arrays = {name: rng.normal(size=(BATCH, WIDTH)) for name in inputs}
            keys, rows = rng.integers(0, 4, BATCH), rng.random(BATCH) < 0.7
            rows[0] = True
            others = {"positives": keys} if keyed else {}
            dirty = {n: np.where(rows[:, None], v, np.nan) for n, v in arrays.items()}
            value, grads = stepped(dirty, others, rows)
            np.testing.assert_allclose(value, plain.value(arrays, keys, rows), rtol=1e-10)
            assert all(np.isfinite(g).all() and not g[~rows].any() for g in grads.values())
            assert not any(grads[name].any() for name in soft)
            if step == 3:

                def of_a(at, given=arrays, keys=keys, rows=rows):
                    return plain.value({**given, "a": at}, keys, rows)

                numeric = differences(of_a, arrays["a"])
                np.testing.assert_allclose(grads["a"], numeric, rtol=1e-6, atol=1e-8)
            if size:
                plain.push(arrays, keys, rows)
        if size:
            assert stepped.variable("queue.filled") == len(plain.past)
            check_evaluation(stepped, arrays, others, rows)


def check_evaluation(stepped, arrays, others, rows):
    """Evaluation reads the queue and leaves it."""
    before = stepped.variable("queue.keys")
    value, _ = stepped(arrays, others, rows, "evaluate")
    np.testing.assert_array_equal(stepped.variable("queue.keys"), before)
    assert np.isfinite(value)


def test_the_queue_is_first_in_first_out():
    """Three places, and rows 0 to 6 of which some do not count: 0, 1 | 3 | none | 4, 5, 6."""
    spec = InfoNceSpec(inputs=["a", "b"], queue=3, similarity="dot")
    stepped = Stepped(spec, {"a": vector(1), "b": vector(1)})
    steps = [([0, 1, 2], [1, 1, 0]), ([9, 3, 9], [0, 1, 0]), ([9, 9, 9], [0, 0, 0])]
    held = [[0, 1, 0], [0, 1, 3], [0, 1, 3], [4, 5, 6]]
    for (numbers, rows), expected in zip([*steps, ([4, 5, 6], [1, 1, 1])], held, strict=True):
        given = np.asarray(numbers, "float32")[:, None]
        value, _ = stepped({"a": given * 0, "b": given}, {}, np.asarray(rows, bool))
        np.testing.assert_array_equal(stepped.variable("queue.keys")[0, :, 0], expected)
        assert np.isfinite(value)
    assert stepped.variable("queue.filled") == 3


def test_no_rows_change_nothing_and_keys_of_absent_rows_are_never_held():
    spec = InfoNceSpec(inputs=["a", "b"], queue=4, soft=["c", "d"])
    names, rng = "abcd", np.random.default_rng(1)
    stepped = Stepped(spec, {name: vector(WIDTH) for name in names})
    rows, whole = np.array([True, False, True]), {}
    for garbage in (0.0, np.nan, np.inf, 1e30):
        stepped.variables = jax.tree.map(jnp.zeros_like, stepped.variables)
        rng = np.random.default_rng(1)
        arrays = {n: rng.normal(size=(3, WIDTH)).astype("float32") for n in names}
        dirty = {
            n: np.where(rows[:, None], v, garbage).astype("float32") for n, v in arrays.items()
        }
        found = [stepped(dirty, {}, rows)[0], stepped(dirty, {}, rows)[0]]
        found += [stepped.variable("queue.keys"), stepped.variable("queue.next")]
        whole.setdefault(0, found)
        for one, other in zip(whole[0], found, strict=True):
            np.testing.assert_array_equal(one, other)
    before = stepped.variable("queue.keys")
    value, grads = stepped(dirty, {}, np.zeros(3, bool))
    assert value == 0.0
    assert not any(g.any() for g in grads.values())
    np.testing.assert_array_equal(stepped.variable("queue.keys"), before)


@pytest.mark.slow
def test_rows_over_eight_devices_give_the_same():
    spec = InfoNceSpec(inputs=["a", "b"], queue=12, soft=["c", "d"])
    names = "abcd"
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    place = NamedSharding(mesh, PartitionSpec("data"))
    alone, spread = (Stepped(spec, {n: vector(WIDTH) for n in names}) for _ in range(2))
    for seed in range(2):
        rng = np.random.default_rng(seed)
        arrays = {n: rng.normal(size=(8, WIDTH)).astype("float32") for n in names}
        rows = rng.random(8) < 0.7
        one = alone(arrays, {}, rows)
        other = spread(jax.device_put(arrays, place), {}, jax.device_put(rows, place))
        np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
        for name in names:
            np.testing.assert_allclose(one[1][name], other[1][name], atol=1e-5)
        for name in ("queue.keys", "queue.filled", "queue.next"):
            np.testing.assert_allclose(alone.variable(name), spread.variable(name), atol=1e-6)


def test_misfits():
    def check(given, **fields):
        InfoNceSpec(**{"inputs": ["a", "b"], **fields}).check(given)

    two = {"a": vector(3), "b": vector(3)}
    with pytest.raises(WiringError, match="due for each input"):
        check({**two, "t": vector(3)}, soft=["t"])
    with pytest.raises(WiringError, match="differ in embed"):
        check({**two, "t": vector(4), "u": vector(4)}, soft=["t", "u"])
    with pytest.raises(WiringError, match="queue is of one point"):
        check(two, queue=4, inputs=["a@..", "b"])
    with pytest.raises(WiringError, match="name of a teacher"):
        check({"t": vector(3), "b": vector(3)}, soft=["t", "b"], inputs={"t": "a", "b": "b"})
    with pytest.raises(WiringError, match="no key"):
        check({**two, "positives": vector(3)}, positives="batch.x")


def test_no_queue_no_variables_and_teachers_are_not_inputs():
    spec = InfoNceSpec(inputs=["a", "b"], soft=["c", "d"], soft_weight=0.0)
    same = InfoNceSpec(inputs=["a", "b"])
    rng = np.random.default_rng(3)
    streams = {n: Stream(jnp.asarray(rng.normal(size=(4, 3)))) for n in "ab"}
    both = {**streams, "c": streams["a"], "d": streams["b"]}
    inputs = {n: vector(3) for n in "abcd"}
    one = fast(spec, inputs, both).total
    np.testing.assert_allclose(
        one, fast(same, {n: vector(3) for n in "ab"}, streams).total, rtol=1e-5
    )

"""Soft targets: by NumPy in float64, absent rows, over a mesh, and without a matrix of scores."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.layout import Layout
from fusekit_modules.ops.contrastive import soft_info_nce, xla
from tests.ops.contrastive import exact

SIZE, MORE, WIDTH, SCALE, SHARE = 12, 9, 8, 7.0, 0.4
WEIGHTS = np.arange(1.0, SIZE + 1)


def vectors(seed, size):
    found = np.random.default_rng(seed).normal(size=(size, WIDTH))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


X, T = vectors(0, SIZE), vectors(1, SIZE)
Y = np.concatenate([vectors(2, SIZE), vectors(3, MORE)])
RNG = np.random.default_rng(4)
ROWS = RNG.random(SIZE) > 0.3
COLUMNS = np.concatenate([ROWS, RNG.random(MORE) > 0.3])
KEYS = RNG.integers(0, 4, SIZE + MORE).astype(float)
ABSENT = np.where(KEYS == 2, np.nan, KEYS)
CHOICES = {"own": None, "keys": KEYS, "some without a key": ABSENT}


def by_numpy(x, scale, keys):
    """One row at a time, and its gradients by hand: softmax less target."""
    value, by_x, by_scale = 0.0, np.zeros_like(x), 0.0
    for i in np.flatnonzero(ROWS):
        scores, taught = scale * Y @ x[i], SCALE * Y @ T[i]
        p, q = (np.where(COLUMNS, np.exp(s - s[COLUMNS].max()), 0) for s in (scores, taught))
        p, q = p / p.sum(), q / q.sum()
        right = np.arange(len(Y)) == i if keys is None else (keys == keys[i])
        right = right & COLUMNS
        target = SHARE * q + (1 - SHARE) * right / max(right.sum(), 1)
        log_p = scores - scores[COLUMNS].max()
        log_p = log_p - np.log(np.exp(log_p[COLUMNS]).sum())
        value -= WEIGHTS[i] * (target * np.where(COLUMNS, log_p, 0)).sum()
        slope = WEIGHTS[i] * (p * target.sum() - target)
        by_x[i] = scale * slope @ Y
        by_scale += slope @ (Y @ x[i])
    return value, by_x, by_scale


def total(options, x, y, teacher, scale, keys):
    names = {} if keys is None else {"keys": keys[:SIZE], "column_keys": keys}
    given = (x, y, teacher, SHARE, scale, jnp.asarray(ROWS), jnp.asarray(COLUMNS))
    each = soft_info_nce(*given, **names, **options)
    return jnp.sum(jnp.where(ROWS, WEIGHTS * each, 0)), each


def found(options, *, garbage=0.0, keys=None, dtype=jnp.float32):
    dirty = [np.where(c[:, None], v, garbage) for v, c in ((X, ROWS), (Y, COLUMNS), (T, ROWS))]
    x, y, teacher = (jnp.asarray(v, dtype) for v in dirty)
    keys = None if keys is None else jnp.asarray(keys, jnp.float32)
    both = jax.value_and_grad(partial(total, options), (0, 1, 2, 3), has_aux=True)
    (value, each), grads = jax.jit(both)(x, y, teacher, jnp.float32(SCALE), keys)
    return value, grads, each


FORMS = {"auto": {}, "xla": {"forward": "xla", "backward": "xla"}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keys", CHOICES)
def test_values_and_gradients_are_those_of_numpy(keys, form):
    value, (by_x, by_y, by_teacher, by_scale), each = found(FORMS[form], keys=CHOICES[keys])
    due, due_x, due_scale = by_numpy(X, SCALE, CHOICES[keys])
    assert exact.off(value, due) < 1e-5
    assert exact.off(by_x, due_x) < 1e-5
    assert exact.off(by_scale, due_scale) < 1e-5
    assert not np.any(by_y)
    assert not np.any(by_teacher)
    assert not np.any(np.asarray(each)[~ROWS])


def test_half_precision():
    value, (by_x, *_, by_scale), _ = found({}, dtype=jnp.bfloat16)
    due, due_x, due_scale = by_numpy(X, SCALE, None)
    assert exact.off(value, due) < 5e-3
    assert exact.off(by_x, due_x) < 1e-2  # of vectors that were rounded before
    assert exact.off(by_scale, due_scale, 1.0) < 5e-2


@pytest.mark.parametrize("garbage", [np.nan, np.inf, 1e30])
def test_absent_contents_reach_nothing(garbage):
    plain, other = (jax.tree.leaves(found({}, garbage=g, keys=KEYS)) for g in (0.0, garbage))
    for one, two in zip(plain, other, strict=True):
        np.testing.assert_array_equal(one, two)


def test_in_chunks_and_over_a_mesh(monkeypatch):
    due = jax.tree.leaves(found({}, keys=KEYS))
    layout = Layout.of({"data": 2, "fsdp": 2}, devices=jax.devices()[:4])
    over = jax.tree.leaves(found({"place": layout}, keys=KEYS))
    monkeypatch.setattr(xla, "ELEMENTS", 100)  # 4 rows of 21 columns
    small = jax.tree.leaves(found({}, keys=KEYS))
    for one, *others in zip(due, over, small, strict=True):
        for other in others:
            assert exact.off(other, one) < 1e-5


def test_16384_rows_take_no_matrix_of_them():
    """Compiled for this CPU: all scores of both would be 2 GiB."""
    shape = jax.ShapeDtypeStruct((16384, 32), jnp.float32)

    def loss(x, y, teacher, scale):
        every = jnp.ones(16384, bool)
        return jnp.sum(soft_info_nce(x, y, teacher, 0.4, scale, every, every))

    lowered = jax.jit(jax.grad(loss, (0, 3))).lower(shape, shape, shape, jnp.float32(1))
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 400 << 20

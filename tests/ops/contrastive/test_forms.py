"""Every form of what is made of scores, against float64 by NumPy and against the obvious one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit_modules.ops import Target
from fusekit_modules.ops.contrastive import cases, gpu, reference, tpu, xla
from fusekit_modules.ops.contrastive.positives import own_only
from fusekit_modules.ops.contrastive.scores import Operands, Positives
from tests.ops.contrastive import exact
from tests.support.often import often

LIMITS = {"float32": 1e-5, "bfloat16": 5e-3}
INTERPRETED = {
    "gpu": {
        "target": Target("gpu", interpret=True),
        "blocks": gpu.Blocks(rows=16, columns=32, depth=16),
    },
    "tpu": {
        "target": Target("tpu", interpret=True),
        "blocks": tpu.Blocks(rows=16, columns=128, group=128, block=32),
    },
}
FORMS = {
    "xla": (partial(xla.forward, chunk=16), partial(xla.backward, chunk=16)),
    "gpu": (
        partial(gpu.forward, **INTERPRETED["gpu"]),
        partial(gpu.backward, **INTERPRETED["gpu"], chunk=1 << 10),
    ),
    "tpu": (
        partial(tpu.forward, **INTERPRETED["tpu"]),
        partial(tpu.backward, **INTERPRETED["tpu"]),
    ),
}


def doubled(given):
    return Operands(*(None if v is None else np.asarray(v, np.float64) for v in given))


def random_positives(case, rows, columns, seed=3):
    """Numbers of groups with several of each, and even shares; volumes have their own only."""
    if case.kind.score == "volume" or case.kind.reduction == "softplus":
        return own_only(rows, columns, jnp.float32)
    rng = np.random.default_rng(seed)
    mine, theirs = (rng.integers(0, 9, size) for size in (case.rows, case.columns))
    same = (mine[:, None] == theirs) & np.asarray(rows)[:, None] & np.asarray(columns)
    shares = (1 / np.maximum(same.sum(axis), 1) * (same.sum(axis) > 0) for axis in (1, 0))
    return Positives(
        *(jnp.asarray(v, jnp.int32) for v in (mine, theirs)),
        *(jnp.asarray(v, jnp.float32) for v in shares),
    )


def grads_of(rows, columns, seed=4):
    rng = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(rng.normal(size=c.shape[0]) * np.asarray(c), jnp.float32)
        for c in (rows, columns)
    )


@pytest.mark.parametrize("case", cases.TESTED, ids=lambda case: case.name)
def test_the_obvious_form_is_that_of_numpy(case):
    given, rows, columns = cases.arrays(case)
    found = jax.jit(partial(reference.forward, case.kind))(given, rows, columns)
    due = exact.results(case.kind, doubled(given), np.asarray(rows), np.asarray(columns))
    for one, other in zip(found, due, strict=True):
        assert exact.off(one, other) < 1e-6


@pytest.mark.parametrize("name", ["info_nce", "siglip", "gram"])
def test_the_gradient_of_the_obvious_form_is_that_of_differences(name):
    case = cases.Case(
        name, getattr(cases, name.upper()), 6, 5, 6, 2 if name == "gram" else 1, "some"
    )
    given, rows, columns = cases.arrays(case, seed=4)
    assert rows.sum() > 1
    assert columns.sum() > 1
    right = random_positives(case, rows, columns)
    grads = grads_of(rows, columns)
    if case.kind.reduction == "softplus":
        grads = (grads[0], 0 * grads[1])
    every, mine, theirs = doubled(given), np.asarray(rows), np.asarray(columns)
    same = (np.asarray(right.rows)[:, None] == np.asarray(right.columns)) & mine[:, None] & theirs

    def value(field, at):
        moved = every._replace(**{field: at})
        own = np.where(same, exact.scores(case.kind, moved), 0)
        shares = np.asarray(right.row_share), np.asarray(right.column_share)
        ends = exact.results(case.kind, moved, mine, theirs)
        return sum(
            np.asarray(grad, np.float64) @ (end - share * own.sum(axis))
            for grad, end, share, axis in zip(grads, ends, shares, (1, 0), strict=True)
        )

    with jax.enable_x64(True):
        wide, double = jax.tree.map(lambda v: jnp.asarray(np.asarray(v, float)), (every, grads))
        back = jax.jit(partial(reference.backward, case.kind))
        found = back(wide, rows, columns, right, None, double)
    for field, at in every._asdict().items():
        if at is not None:
            due = exact.slope(partial(value, field), at)
            assert exact.off(getattr(found, field), due) < 2e-6 or np.abs(due).max() < 1e-9, field


@pytest.mark.parametrize("dtype", often(["float32", "bfloat16"], ["float32"]))
@pytest.mark.parametrize("case", cases.TESTED, ids=lambda case: case.name)
@pytest.mark.parametrize("form", FORMS)
def test_the_other_forms_are_as_the_obvious_one(form, case, dtype):
    given, rows, columns = cases.arrays(case, dtype)
    if form in INTERPRETED:
        module = {"gpu": gpu, "tpu": tpu}[form]
        reason = module.unsupported(case.kind, given, INTERPRETED[form]["target"], "forward")
        if reason:
            pytest.skip(reason)
    forward, backward = FORMS[form]
    found = jax.jit(partial(forward, case.kind))(given, rows, columns)
    due = jax.jit(partial(reference.forward, case.kind))(given, rows, columns)
    for one, other in zip(found, due, strict=True):
        assert exact.off(one, other) <= LIMITS[dtype]
    right, grads = random_positives(case, rows, columns), grads_of(rows, columns)
    if case.kind.reduction == "softplus":
        grads = (grads[0], 0 * grads[1])
    inputs = (given, rows, columns, right, due, grads)
    wide = jax.tree.map(lambda v: v.astype(jnp.float32), given)
    owed = jax.jit(partial(reference.backward, case.kind))(wide, *inputs[1:])
    slopes = jax.jit(partial(backward, case.kind))(*inputs)
    parts = np.sum(np.asarray(wide.x) * owed.x, axis=1) / case.scale  # their sum is by the scale
    for field, one, other in zip(Operands._fields, slopes, owed, strict=True):
        if one is not None:
            least = np.linalg.norm(parts) if field == "scale" else 0
            assert np.all(np.isfinite(one)), field
            assert exact.off(one, other, least) <= LIMITS[dtype], field

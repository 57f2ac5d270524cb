"""Every form by NumPy in float64: values and gradients, one device and many."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.layout import Layout
from fusekit_modules.ops import BackendError, Target
from fusekit_modules.ops.linear_cross_entropy import cases, floors, linear_cross_entropy, op, xla
from fusekit_modules.ops.linear_cross_entropy.given import Linear
from tests.ops.vocabulary.exact import both, off

LIMITS = {"float32": 1e-5, "bfloat16": 5e-3}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks of these small vocabularies, the last smaller."""
    monkeypatch.setattr(xla, "chunks", lambda rows, words, size=None: (16, (words - 1) // 16))


def weights_of(case):
    return jnp.asarray(np.random.default_rng(5).random(case.vocabulary), jnp.float32)


def call(given, target, counts, grad, options):
    """Rows, and gradients of their sum weighed by `grad`."""

    def total(given):
        each = linear_cross_entropy(*given, target, counts, **options)
        return jnp.sum(grad * each), each

    (_, each), grads = jax.value_and_grad(total, has_aux=True)(given)
    return each, grads


def grad_of(case):
    return jnp.asarray(np.random.default_rng(3).standard_normal(case.rows), jnp.float32)


PLAIN, SMOOTHED, WEIGHED = (0.0, False), (0.1, False), (0.2, True)
TRIED = [
    ("xla", PLAIN, "float32", cases.TESTED),
    ("xla", WEIGHED, "float32", cases.TESTED[1:3]),
    ("xla", SMOOTHED, "bfloat16", cases.TESTED[1:2]),
    ("reference", WEIGHED, "float32", cases.TESTED[2:3]),
    ("reference", PLAIN, "bfloat16", cases.TESTED[1:2]),
]


@pytest.mark.parametrize(
    ("backend", "kind", "dtype", "case"),
    [(*how, case) for *how, tried in TRIED for case in tried],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_it_is_that_of_numpy(backend, kind, dtype, case):
    given, target, counts = cases.arrays(case, dtype)
    smoothing, weighed = kind
    weights, grad = weights_of(case) if weighed else None, grad_of(case)
    options = {"smoothing": smoothing, "class_weights": weights, "backend": backend}
    each, grads = jax.jit(partial(call, options=options))(given, target, counts, grad)
    due, owed = both(given, target, counts, np.asarray(grad, float), smoothing, weights)
    assert each.dtype == jnp.float32
    assert off(each, due) < LIMITS[dtype]
    for one, other in zip(grads, owed, strict=True):
        if one is not None:
            assert one.dtype == dtype
            assert off(one, other) < LIMITS[dtype]
    assert np.all(np.asarray(grads.features)[~np.asarray(counts)] == 0)


def test_it_is_exact_in_float64():
    case = cases.TESTED[1]
    with jax.enable_x64(True):
        given, target, counts = cases.arrays(case, jnp.float64)
        grad = jnp.asarray(np.random.default_rng(3).standard_normal(case.rows))
        each, grads = jax.jit(partial(call, options={"smoothing": 0.1}))(
            given, target, counts, grad
        )
        due, owed = both(given, target, counts, np.asarray(grad), 0.1)
    assert off(each, due) < 1e-12
    assert all(off(one, other) < 1e-12 for one, other in zip(grads, owed, strict=True))


def test_what_does_not_count_changes_nothing():
    case = cases.TESTED[1]
    given, target, counts = cases.arrays(case)
    compiled = jax.jit(partial(call, options={"smoothing": 0.1}))
    clean = given._replace(features=jnp.where(counts[:, None], given.features, 0))
    due = compiled(clean, target, counts, grad_of(case))
    for garbage in (np.nan, np.inf, -np.inf, 1e30):
        dirty = given._replace(features=jnp.where(counts[:, None], given.features, garbage))
        found = compiled(dirty, jnp.where(counts, target, 10**6), counts, grad_of(case))
        for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_target_that_is_not_there_is_not_passed_over():
    given, target, counts = cases.arrays(cases.TESTED[0])
    wrong = target.at[2].set(-1).at[5].set(40)
    each = jax.jit(linear_cross_entropy)(*given, wrong, counts)
    assert np.flatnonzero(np.isnan(each)).tolist() == [2, 5]


MESHES = (
    {"data": 2, "tensor": 4},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"sequence": 2, "tensor": 2, "expert": 2},
)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_a_mesh_gives_the_same_numbers_and_gathers_nothing(sizes):
    case = cases.Case("", 32, 12, 64, missing="some")
    given, target, counts = cases.arrays(case)
    grad, layout = grad_of(case), Layout.of(sizes)
    shaped = lambda a: a.reshape(8, 4, *a.shape[1:])  # noqa: E731
    options = {"smoothing": 0.1, "class_weights": weights_of(case)}
    inputs = given._replace(features=shaped(given.features)), *map(shaped, (target, counts, grad))
    due = jax.jit(partial(call, options=options))(*inputs)

    def placed(array, axes, of):
        return jax.device_put(array, of(array.shape, axes))

    rows = ("batch", "time")
    params, streams = layout.of_param, layout.of_stream
    placed_given = Linear(
        placed(inputs[0].features, (*rows, None), streams),
        placed(given.kernel, (None, "vocab"), params),
        placed(given.bias, ("vocab",), params),
    )
    others = [placed(array, rows, streams) for array in inputs[1:]]
    function = partial(call, options={**options, "layout": layout})
    compiled = jax.jit(function).lower(placed_given, *others).compile()
    text = compiled.as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text
    assert "collective-permute" not in text
    found = compiled(placed_given, *others)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert off(one, two) < 1e-6
    if sizes.get("tensor", 1) > 1:
        assert found[1].kernel.sharding.spec == P(None, "tensor")


def test_a_vocabulary_that_does_not_divide_is_whole():
    case = cases.Case("", 32, 12, 63)
    given, target, counts = cases.arrays(case)
    layout = Layout.of({"data": 2, "tensor": 4})
    found = jax.jit(partial(call, options={"layout": layout}))(given, target, counts, grad_of(case))
    due = jax.jit(partial(call, options={}))(given, target, counts, grad_of(case))
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert off(one, two) < 1e-6
    assert isinstance(given.kernel.sharding, NamedSharding | jax.sharding.SingleDeviceSharding)


def test_replicas_side_by_side():
    case = cases.TESTED[1]
    given, target, counts = cases.arrays(case)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), given)
    both_at_once = jax.vmap(partial(call, options={}), in_axes=(0, None, None, None))
    found = jax.jit(both_at_once)(two, target, counts, grad_of(case))
    one_alone = jax.jit(partial(call, options={}))
    for n in range(2):
        alone = one_alone(
            jax.tree.map(lambda leaf, n=n: leaf[n], two), target, counts, grad_of(case)
        )
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            assert off(one[n], other) < 1e-6


def test_backends_are_chosen_and_named():
    given = Linear(jnp.zeros((3, 4)), jnp.zeros((4, 40)))
    for place in (Target("cpu"), Target("tpu", generation="v5e")):
        assert op.plan(given, place=place).forward.backend == "xla"
    chosen = op.plan(given, backend="reference", backward="xla")
    assert (chosen.forward.backend, chosen.backward.backend) == ("reference", "xla")
    with pytest.raises(BackendError, match=r"no backend refrence.*did you mean reference"):
        op.plan(given, backend="refrence")


def test_it_pays_where_the_vocabulary_and_the_logits_are_many():
    assert op.pays(4096, 32768)
    assert not op.pays(128, 32768)
    assert not op.pays(10**6, 8191)


def test_floors_count_products_and_what_is_read():
    given = Linear(*(jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((10, 4), (4, 30), (30,))))
    floor = floors.forward(given)
    assert floor == (2 * 10 * 4 * 30, 2 * (40 + 120 + 30) + 80, 300)
    assert floors.backward(given).flops == 3 * floor.flops

"""The public functions: by NumPy, over a mesh, with kernels, and with nothing that counts."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.layout import Layout
from fusekit_modules.ops import BackendError, Target
from fusekit_modules.ops.contrastive import cases, gram, info_nce, reduce, several, siglip, symile
from fusekit_modules.ops.contrastive.given import How, multiplied
from fusekit_modules.ops.contrastive.scores import Kind
from tests.ops.contrastive import exact
from tests.support.often import often

SIZE, WIDTH, SCALE, BIAS = 24, 8, 7.0, -2.0


def vectors(dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    x, y = (rng.normal(size=(SIZE, WIDTH)) for _ in "xy")
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    return (
        jnp.asarray(x, dtype),
        jnp.asarray(y, dtype),
        rng.random(SIZE) > 0.3,
        rng.integers(0, 6, SIZE),
    )


def by_numpy(x, y, rows, columns, keys, column_keys):
    """The first side of InfoNCE, one row at a time."""
    found = np.zeros(len(x))
    for i in np.flatnonzero(rows):
        right = columns & (column_keys == keys[i])
        scores = SCALE * y @ x[i]
        if right.any():
            found[i] = np.logaddexp.reduce(scores[columns]) - scores[right].mean()
    return found


@pytest.mark.parametrize("forward", ["reference", "xla"])
@pytest.mark.parametrize("given", ["own", "integers", "reals"])
def test_info_nce_is_that_of_numpy(given, forward):
    x, y, counts, keys = vectors()
    columns = np.random.default_rng(5).random(SIZE) > 0.2
    keys = {"own": np.arange(SIZE), "integers": keys, "reals": np.where(keys > 4, np.nan, keys / 3)}
    keys, named = keys[given], {} if given == "own" else {"keys": jnp.asarray(keys[given])}
    call = jax.jit(partial(info_nce, forward=forward))
    found = call(x, y, jnp.float32(SCALE), counts, columns, **named)
    wide = np.asarray(x, np.float64), np.asarray(y, np.float64)
    assert exact.off(found[0], by_numpy(*wide, counts, columns, keys, keys)) < 1e-6
    assert exact.off(found[1], by_numpy(*wide[::-1], columns, counts, keys, keys)) < 1e-6


@pytest.mark.parametrize("forward", ["reference", "xla"])
def test_more_columns_than_rows_with_keys_of_their_own(forward):
    x, y, counts, keys = vectors()
    more, _, filled, held = vectors(seed=3)
    columns, column_keys = np.concatenate([counts, filled]), np.concatenate([keys, held])
    every = jnp.concatenate([y, more])
    call = jax.jit(partial(info_nce, forward=forward))
    call = partial(call, x, every, jnp.float32(SCALE), counts, columns)
    wide = np.asarray(x, np.float64), np.asarray(every, np.float64)
    keyed = call(keys=jnp.asarray(keys), column_keys=jnp.asarray(column_keys))[0]
    assert exact.off(keyed, by_numpy(*wide, counts, columns, keys, column_keys)) < 1e-6
    own = np.arange(SIZE), np.arange(2 * SIZE)
    assert exact.off(call()[0], by_numpy(*wide, counts, columns, *own)) < 1e-6


@pytest.mark.parametrize("forward", ["reference", "xla"])
def test_siglip_is_that_of_numpy(forward):
    x, y, counts, _ = vectors()
    found = siglip(x, y, jnp.float32(SCALE), jnp.float32(BIAS), counts, forward=forward)
    scores = SCALE * np.asarray(x, float) @ np.asarray(y, float).T + BIAS
    each = np.logaddexp(0, np.where(np.eye(SIZE, dtype=bool), -scores, scores))
    assert exact.off(found, counts * (each * counts).sum(1)) < 1e-6


def total(name, options, x, y, scale, bias, counts, keys):
    weights = jnp.arange(1.0, SIZE + 1)
    if name == "siglip":
        return jnp.sum(weights * siglip(x, y, scale, bias, counts, **options))
    first, second = info_nce(x, y, scale, counts, counts, keys=keys, **options)
    return jnp.sum(weights * first + second) + bias * 0


BOTH = jax.value_and_grad(total, (2, 3, 4, 5))


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("name", ["info_nce", "siglip"])
def test_kernels_behind_the_public_functions(name, platform):
    x, y, counts, keys = vectors(jnp.bfloat16)
    inputs = (x, y, jnp.float32(SCALE), jnp.float32(BIAS), counts, jnp.asarray(keys))
    plain = {"forward": "reference", "backward": "reference"}
    due = jax.jit(partial(BOTH, name, plain))(*inputs)
    options = {
        "target": Target(platform, interpret=True),
        "forward": platform,
        "backward": platform,
    }
    found = jax.jit(partial(BOTH, name, options))(*inputs)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert exact.off(one, other, 0.05 if one.ndim == 0 else 0) < 6e-3


@pytest.mark.parametrize("name", ["info_nce", "siglip"])
@pytest.mark.parametrize("form", ["reference", "xla", "gpu"])
def test_a_mesh_changes_nothing(form, name):
    layout = Layout.of({"data": 2, "fsdp": 2}, devices=jax.devices()[:4])
    x, y, counts, keys = vectors()
    inputs = (x, y, jnp.float32(SCALE), jnp.float32(BIAS), jnp.asarray(counts), jnp.asarray(keys))
    due = BOTH(name, {"forward": "reference", "backward": "reference"}, *inputs)
    options = {"place": layout, "forward": form, "backward": form}
    options |= {"target": Target("gpu", interpret=True)} if form == "gpu" else {}

    def place(v):
        axes = ("batch",) + (None,) * (v.ndim - 1) if v.ndim else ()
        return jax.device_put(v, NamedSharding(layout.mesh, layout.of_stream(v.shape, axes).spec))

    found = jax.jit(partial(BOTH, name, options))(*map(place, inputs))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert exact.off(one, other) < (1e-3 if form == "gpu" else 1e-5)


def test_over_a_mesh_rows_stay_and_columns_come():
    layout = Layout.of({"data": 4}, devices=jax.devices()[:4])
    options = {"place": layout, "forward": "xla", "backward": "xla"}
    cut = NamedSharding(layout.mesh, P("data"))
    shapes = [jax.ShapeDtypeStruct((256, 16), jnp.float32, sharding=cut)] * 2
    every = jnp.ones(256, bool)

    def loss(x, y):
        return jnp.sum(info_nce(x, y, jnp.float32(2), every, every, **options)[0])

    text = jax.jit(loss).lower(*shapes).compile().as_text()
    assert "f32[256,16]" in text  # all columns
    assert "f32[64,256]" in text  # scores of a quarter of the rows
    assert "f32[256,256]" not in text


@pytest.mark.parametrize(
    ("form", "count"), [("xla", 1), ("xla", 2), ("xla", 3), ("tpu", 1), ("tpu", 3)]
)
def test_volumes_in_chunks_and_in_kernels_are_as_the_exact_ones(form, count):
    vectors_ = [vectors(seed=seed)[0] for seed in range(count + 1)]
    counts = vectors()[2]

    def value(form, scale, *vectors):
        options = {"forward": form, "backward": form}
        options |= {"target": Target("tpu", interpret=True)} if form == "tpu" else {}
        first, second = gram(vectors[0], list(vectors[1:]), scale, counts, **options)
        return jnp.sum(jnp.arange(1.0, SIZE + 1) * first + second)

    both = jax.value_and_grad(value, argnums=range(1, count + 3))
    due, found = (both(name, jnp.float32(SCALE), *vectors_) for name in ("reference", form))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert exact.off(one, other) < 2e-5


def combinations(vectors, counts):
    """Symile of the first as the anchor, against all, one row at a time."""
    index, found = np.flatnonzero(counts), np.zeros(SIZE)
    anchor, *others = (np.asarray(v, np.float64) for v in vectors)
    for i in index:
        products = [
            SCALE * np.sum(anchor[i] * np.prod([o[j] for o, j in zip(others, at, strict=True)], 0))
            for at in itertools.product(index, repeat=len(others))
        ]
        own = SCALE * np.sum(anchor[i] * np.prod([o[i] for o in others], 0))
        found[i] = np.logaddexp.reduce(products) - own
    return found


@pytest.mark.parametrize("form", ["reference", "xla"])
@pytest.mark.parametrize("columns", often([1 << 15, 150], [150]))
def test_symile_among_all_is_that_of_numpy(columns, form, monkeypatch):
    """In one chunk, and in chunks of six of the 24 rows of the first of the others."""
    monkeypatch.setattr(several, "COLUMNS", columns)
    given, counts = [vectors(seed=seed)[0] for seed in range(3)], vectors()[2]
    turns = [[given[n], *given[:n], *given[n + 1 :]] for n in range(3)]
    due = sum(combinations(turn, counts) for turn in turns) / 3

    def value(scale, *vectors):
        return symile(vectors, scale, counts, forward=form, backward=form)

    found = value(jnp.float32(SCALE), *given)
    assert exact.off(found, due) < 1e-6

    def plain(scale, *vectors):
        total = 0
        for n in range(3):
            anchor, first, second = vectors[n], *(vectors[:n] + vectors[n + 1 :])
            every = jnp.einsum("id,jd,kd->ijk", anchor, first, second) * scale
            every = jnp.where(counts[:, None] & counts, every, -jnp.inf)
            own = scale * jnp.sum(anchor * first * second, axis=1)
            total += jnp.where(counts, jax.nn.logsumexp(every, axis=(1, 2)) - own, 0)
        return total / 3

    weights = jnp.arange(1.0, SIZE + 1)
    slopes = (jax.grad(lambda *v, f=f: f(*v) @ weights, range(4)) for f in (value, plain))
    for one, other in zip(*(slope(jnp.float32(SCALE), *given) for slope in slopes), strict=True):
        assert exact.off(one, other) < 1e-5


@pytest.mark.parametrize("form", ["reference", "xla"])
def test_absent_contents_reach_nothing(form):
    x, y, counts, keys = vectors()
    options = {"forward": form, "backward": form}

    def outcome(garbage):
        dirty = [jnp.where(counts[:, None], v, garbage) for v in (x, y)]
        inputs = (*dirty, jnp.float32(SCALE), jnp.float32(BIAS), counts, jnp.asarray(keys))
        return jax.tree.leaves(BOTH("info_nce", options, *inputs))

    plain = outcome(0.0)
    assert all(np.all(np.isfinite(leaf)) for leaf in plain)
    assert all(np.all(np.asarray(leaf)[~counts] == 0) for leaf in plain[1:3])
    for garbage in (np.nan, np.inf, 1e30):
        for one, other in zip(plain, outcome(garbage), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("form", ["reference", "xla"])
def test_nothing_counts(form):
    x, y, counts, keys = vectors()
    options = {"forward": form, "backward": form}
    for name in ("info_nce", "siglip"):
        inputs = (x, y, jnp.float32(SCALE), jnp.float32(BIAS), counts & False, jnp.asarray(keys))
        assert all(
            np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(BOTH(name, options, *inputs))
        )


def test_volumes_by_a_kernel():
    given, counts = [vectors(seed=seed)[0] for seed in range(3)], vectors()[2]
    options = {"target": Target("gpu", interpret=True), "forward": "gpu", "backward": "gpu"}

    def value(options, scale, *vectors):
        first, second = gram(vectors[0], list(vectors[1:]), scale, counts, **options)
        return jnp.sum(jnp.arange(1.0, SIZE + 1) * first + second)

    both = jax.value_and_grad(value, argnums=range(1, 5))
    due = both({"forward": "reference", "backward": "reference"}, jnp.float32(SCALE), *given)
    found = jax.jit(partial(both, options))(jnp.float32(SCALE), *given)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(due), strict=True):
        assert exact.off(one, other) < 2e-5


def test_operands_are_what_the_target_multiplies():
    x = vectors()[0]
    tpu, gpu = Target("tpu", generation="v5e"), Target("gpu", capability=(9, 0))
    assert multiplied(x, tpu).dtype == jnp.bfloat16
    bits = np.asarray(multiplied(x, gpu)).view(np.uint32)
    assert np.all(bits & 0x1FFF == 0)
    assert np.any(np.asarray(x).view(np.uint32) & 0x1FFF)
    assert multiplied(x, Target("cpu")) is x
    with jax.default_matmul_precision("highest"):
        assert multiplied(x, tpu) is x
        assert multiplied(x, gpu) is x
    narrow = x.astype(jnp.bfloat16)
    assert multiplied(narrow, tpu) is narrow


def test_many_scores_are_made_in_chunks():
    """`auto` takes chunks; of more than `WHOLE` scores a kernel, where there is one; and of fewer
    volumes the obvious form, which is exact."""
    case = cases.Case("", cases.INFO_NCE, 8, 8, 8)
    given, *_ = cases.arrays(case)
    for target in (Target("cpu"), Target("gpu", capability=(9, 0))):
        plan = reduce.plan(case.kind, given, How(target))
        assert (plan.forward, plan.backward) == ("xla", "xla")
        plan = reduce.plan(Kind("volume"), given, How(target))
        assert (plan.forward, plan.backward) == ("reference", "reference")
    size = int(reduce.WHOLE**0.5) + 1
    many = given._replace(
        x=jax.ShapeDtypeStruct((size, 8), jnp.float32),
        y=jax.ShapeDtypeStruct((1, size, 8), jnp.float32),
    )
    for kind in (case.kind, Kind("volume")):
        plan = reduce.plan(kind, many, How(Target("cpu")))
        assert (plan.forward, plan.backward) == ("xla", "xla")
    hopper = Target("gpu", capability=(9, 0))
    half = many._replace(
        x=jax.ShapeDtypeStruct(many.x.shape, jnp.bfloat16),
        y=jax.ShapeDtypeStruct(many.y.shape, jnp.bfloat16),
    )
    gpu = reduce.plan(case.kind, half, How(hopper))
    assert (gpu.forward, gpu.backward) == ("gpu", "gpu")
    assert reduce.plan(case.kind, many, How(hopper)).forward == "xla"
    asked = How(hopper, forward="gpu", backward="gpu")
    assert reduce.plan(case.kind, many, asked).forward == "gpu"
    with pytest.raises(BackendError, match="multiplies bfloat16, and vectors are of float32"):
        reduce.plan(case.kind, many, How(Target("tpu", generation="v5e"), forward="tpu"))


def test_32768_rows_take_no_matrix_of_them():
    """The whole gradient, compiled for this CPU: all scores would be 4 GiB."""
    shape = jax.ShapeDtypeStruct((32768, 64), jnp.float32)

    def loss(x, y, scale):
        every = jnp.ones(32768, bool)
        return sum(map(jnp.sum, info_nce(x, y, scale, every, every)))

    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, jnp.float32(1))
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 400 << 20


@pytest.mark.slow
def test_what_a_mesh_does_not_divide_is_filled_up():
    """Ten rows and 13 columns on four devices: the values and gradients of one."""
    layout = Layout.of({"data": 2, "fsdp": 2}, devices=jax.devices()[:4])
    x, y = (jnp.asarray(np.random.default_rng(n).normal(size=(n, 6))) for n in (10, 13))
    rows, columns = jnp.arange(10) != 4, jnp.arange(13) != 11

    def value(place, x, y, scale):
        return info_nce(x, y, scale, rows, columns, place=place, forward="xla", backward="xla")

    def outcome(place):
        found, back = jax.vjp(partial(value, place), x, y, jnp.asarray(SCALE))
        slopes = tuple(jnp.linspace(-1, 1, len(one)).astype(one.dtype) for one in found)
        return found, back(slopes)

    alone, over = jax.tree.leaves(outcome(None)), jax.tree.leaves(outcome(layout))
    for due, found in zip(alone, over, strict=True):
        assert found.shape == due.shape
        assert exact.off(found, due) < 1e-5

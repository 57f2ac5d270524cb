"""What stands around tokamax's kernel, with a stand-in for it; and the kernel through the real
compiler, where the package is installed."""

import sys
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.layout import Layout
from fusekit.plan.compilers import ENVIRONMENT, devices
from fusekit_modules.ops import BackendError, Target, optional
from fusekit_modules.ops.linear_cross_entropy import cases, linear_cross_entropy, tokamax
from fusekit_modules.ops.linear_cross_entropy.given import Linear
from fusekit_tpu.topology import Topology
from tests.ops.vocabulary.exact import both, off

V5E = Target("tpu", generation="v5e")


@pytest.fixture
def stand_in(monkeypatch):
    """Sums as tokamax defines them, of whole blocks of rows."""

    def summed(x, labels, weights, *, reduction, implementation):
        assert (reduction, implementation) == ("sum", "mosaic_tpu")
        assert len(x) % 1024 == 0
        logits = jnp.dot(x, weights, preferred_element_type=jnp.float32)
        own = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return jnp.sum(jax.nn.logsumexp(logits, axis=1) - own)

    module = ModuleType("tokamax")
    module.linear_softmax_cross_entropy_loss = summed
    monkeypatch.setitem(sys.modules, "tokamax", module)
    monkeypatch.setattr(optional, "find_spec", lambda name: module)


def summed(given, target, counts, layout=None):
    each = linear_cross_entropy(*given, target, counts, place=V5E, layout=layout, backend="tokamax")
    return jnp.sum(each)


@pytest.mark.parametrize("sizes", [None, {"data": 4, "sequence": 2}], ids=str)
def test_sums_and_gradients_are_those_of_rows_that_count(stand_in, sizes):
    case = cases.Case("", 24, 8, 40, bias=False, missing="some")
    given, target, counts = cases.arrays(case)
    rows = (8, 3) if not sizes else (4, 6)
    shaped = given._replace(features=given.features.reshape(*rows, 8))
    layout = None if sizes is None else Layout.of(sizes)
    call = jax.jit(jax.value_and_grad(lambda *a: summed(*a, layout)))
    total, grads = call(shaped, target.reshape(rows), counts.reshape(rows))
    each, (by_features, by_kernel, _) = both(given, target, counts, np.ones(24))
    every = 1024 * (1 if sizes is None else 8)  # rows of zeros too are in the sum, and its rounding
    assert abs(total - each.sum()) < 1e-6 * every * np.log(40)
    assert off(grads.features.reshape(24, 8), by_features) < 1e-5
    assert off(grads.kernel, by_kernel) < 1e-5


def test_what_it_cannot_do_is_said(stand_in, monkeypatch):
    given = Linear(jnp.zeros((8, 8)), jnp.zeros((8, 40)))
    due = {
        "the target is a CPU": (Target("cpu"), given, False),
        "it adds no bias": (V5E, given._replace(bias=jnp.zeros(40)), False),
        "it knows no smoothing": (V5E, given, True),
        "a width of 12": (V5E, given._replace(features=jnp.zeros((8, 12))), False),
        "float16 is not": (V5E, given._replace(features=jnp.zeros((8, 8), "float16")), False),
    }
    for reason, (place, asked, weighed) in due.items():
        assert tokamax.unsupported(place, asked, None, weighed=weighed).startswith(reason)
    assert tokamax.unsupported(V5E, given, None, weighed=False) is None
    split = Layout.of({"data": 2, "tensor": 4})
    options = {"place": V5E, "backend": "tokamax"}
    rows = jnp.zeros(8, int), jnp.ones(8, bool)
    with pytest.raises(BackendError, match="axis tensor splits the vocabulary"):
        linear_cross_entropy(*given, *rows, layout=split, **options)
    monkeypatch.setattr(optional, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"not installed: pip install 'fusekit\[tokamax\]'"):
        linear_cross_entropy(*given, *rows, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [1, 4])
def test_it_compiles_for_v5e(count, monkeypatch):
    pytest.importorskip("tokamax", reason="tokamax is not installed")
    pytest.importorskip("libtpu")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    chips = devices(Topology.parse("v5e:2x2"))[:count]
    layout = Layout.of({"data": count}, devices=chips)
    rows, width, words = 4096, 768, 32768
    of = layout.of_stream((rows,), ("batch",))

    def shape(sizes, dtype, place):
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

    given = Linear(
        shape((rows, width), jnp.bfloat16, of),
        shape((width, words), jnp.float32, layout.replicated()),
    )
    others = shape((rows,), jnp.int32, of), shape((rows,), jnp.bool_, of)
    call = jax.value_and_grad(lambda *a: summed(*a, layout))
    with jax.default_device(chips[0]):
        program = jax.jit(call).lower(given, *others).compile()
    text = program.as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert "all-gather" not in text
    assert program.memory_analysis().temp_size_in_bytes < 128 << 20

"""The Triton kernels: lowered anywhere, run where there is a GPU."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit_modules.ops import Target
from fusekit_modules.ops.contrastive import cases, gpu, info_nce, reference
from fusekit_modules.ops.contrastive.scores import Operands
from tests.ops.contrastive import exact
from tests.ops.contrastive.test_forms import grads_of, random_positives

H100 = Target("gpu", capability=(9, 0))
pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
SIZES = {"info_nce": (1000, 700, 512, 1), "siglip": (300, 300, 200, 1), "gram": (500, 260, 128, 3)}


def compiled_for() -> AbstractContextManager[Any]:
    """jax 0.11 and later ask for the kind of GPU while lowering."""
    if jax.__version_info__ < (0, 11):
        return nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100", 132, "gpu")
    mesh = jax.sharding.AbstractMesh((1,), ("device",), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


def lowered(function: Any, *given: Any) -> str:
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), given)
    with compiled_for():
        return jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SIZES)
def test_kernels_lower_for_cuda(name, dtype):
    case = cases.Case(name, getattr(cases, name.upper()), *SIZES[name], "some")
    given, rows, columns = cases.arrays(case, dtype)
    pair = tuple(jnp.zeros(c.shape, jnp.float32) for c in (rows, columns))
    right = random_positives(case, rows, columns)
    for call, more in ((gpu.forward, ()), (gpu.backward, (right, pair, pair))):
        text = lowered(partial(call, case.kind, target=H100), given, rows, columns, *more)
        assert "__gpu$xla.gpu.triton" in text


def test_the_gradient_of_the_public_function_lowers_for_cuda():
    def loss(x, y, scale):
        every = jnp.ones(x.shape[0], bool)
        options = {"target": H100, "forward": "gpu", "backward": "gpu"}
        return jnp.mean(info_nce(x, y, scale, every, every, **options)[0])

    vectors = jnp.zeros((512, 256), jnp.bfloat16)
    text = lowered(jax.grad(loss, (0, 1, 2)), vectors, vectors, jnp.float32(1))
    assert text.count("__gpu$xla.gpu.triton") == 2


def test_what_they_refuse():
    given, *_ = cases.arrays(cases.Case("gram", cases.GRAM, 8, 8, 8, 4))
    assert "multiplies TF32" in gpu.unsupported(cases.GRAM, given, H100, "forward")
    given = given._replace(x=given.x.astype(jnp.bfloat16))
    assert "4 products" in gpu.unsupported(cases.GRAM, given, H100, "forward")
    assert "a CPU" not in gpu.unsupported(cases.GRAM, given, H100, "forward")
    assert "CPU" in gpu.unsupported(cases.GRAM, given, Target("cpu"), "forward")
    old = Target("gpu", capability=(7, 5))
    assert "below 8.0" in gpu.unsupported(cases.GRAM, given, old, "forward")


@pytest.mark.gpu
@pytest.mark.parametrize("missing", ["none", "some", "all"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SIZES)
def test_numbers_on_a_gpu(name, dtype, missing):
    case = cases.Case(name, getattr(cases, name.upper()), *SIZES[name], missing)
    given, rows, columns = cases.arrays(case, dtype)
    target = Target.of(jax.devices()[0])
    wide = jax.tree.map(lambda v: v.astype(jnp.float32), given)
    right, grads = random_positives(case, rows, columns), grads_of(rows, columns)
    if case.kind.reduction == "softplus":
        grads = (grads[0], 0 * grads[1])
    with jax.default_matmul_precision("highest"):
        due = reference.forward(case.kind, wide, rows, columns)
        owed = reference.backward(case.kind, wide, rows, columns, right, due, grads)
    found = jax.jit(partial(gpu.forward, case.kind, target=target))(given, rows, columns)
    limit = 5e-3  # of bfloat16, and of float32 multiplied as TF32
    for one, other in zip(found, due, strict=True):
        assert exact.off(one, other) <= limit
    call = jax.jit(partial(gpu.backward, case.kind, target=target, chunk=1 << 17))
    slopes = call(given, rows, columns, right, due, grads)
    parts = np.sum(np.asarray(wide.x) * owed.x, axis=1) / case.scale
    for field, one, other in zip(Operands._fields, slopes, owed, strict=True):
        if one is not None:
            assert np.all(np.isfinite(one)), field
            least = np.linalg.norm(parts) if field == "scale" else 0
            assert exact.off(one, other, least) <= limit, field

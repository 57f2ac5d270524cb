"""The public function: backends, meshes, exported programs, what cannot be asked."""

import re
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.errors import FusekitError
from fusekit.layout import Layout
from fusekit_modules.ops import BackendError, Target
from fusekit_modules.ops.low_rank import Factor, cases, gpu, low_rank, plan, reference
from fusekit_modules.ops.low_rank.form import Given
from tests.ops.contrastive.test_gpu import compiled_for
from tests.ops.low_rank import exact

CPU, H100, V5E = Target("cpu"), Target("gpu", capability=(9, 0)), Target("tpu", generation="v5e")
CASE = cases.Case("mesh", 16, (12, 8, 20), 4, 24, "some")


def both(options, given, grad):
    """The result and the gradient by everything."""
    found, back = jax.vjp(lambda given: low_rank(*given, **options), given)
    return found, back(grad)[0]


def given_and_grad(case=CASE, dtype=jnp.float32):
    grad = np.random.default_rng(9).standard_normal((case.rows, case.out))
    return cases.arrays(case, dtype), jnp.asarray(grad, dtype)


@pytest.mark.parametrize("backend", ["auto", "xla", "reference", "tpu", "gpu"])
def test_passes_run_by_themselves(backend):
    given, grad = given_and_grad()
    due = reference.forward(given), reference.backward(given, grad)
    platform = backend if backend in ("tpu", "gpu") else "cpu"
    target = Target(platform, interpret=platform != "cpu")
    found = jax.jit(partial(both, {"target": target, "backend": backend}))(given, grad)
    assert exact.off(found, due) < 1e-5


@pytest.mark.parametrize("sizes", [{"data": 4, "tensor": 2}, {"data": 2, "fsdp": 2, "tensor": 2}])
@pytest.mark.parametrize("backend", ["xla", "tpu"])
def test_a_mesh_changes_nothing_and_gathers_nothing(backend, sizes):
    layout = Layout.of(sizes, params={"features": "tensor"})
    given, grad = given_and_grad()
    target = Target("tpu", interpret=True) if backend == "tpu" else CPU
    options = {"target": target, "backend": backend}
    due = both(options, given, grad)
    axes = tuple(axis for axis in ("data", "fsdp") if sizes.get(axis, 1) > 1)
    factor = Factor(P(None, "tensor"), P(None, None, "tensor"))
    specs = Given((P(axes),) * 3, (factor,) * 3, P(), P("tensor")), P(axes, "tensor")
    where = jax.tree.map(
        lambda spec: NamedSharding(layout.mesh, spec), specs, is_leaf=lambda s: isinstance(s, P)
    )
    given, grad = jax.device_put((given, grad), where)
    call = jax.jit(partial(both, {**options, "layout": layout}), out_shardings=(where[1], where[0]))
    program = call.lower(given, grad).compile()
    text = program.as_text()
    for word in ("all-gather", "all-to-all", "collective-permute"):
        assert word not in text
    assert exact.off(program(given, grad), due) < 1e-6


def test_gradients_are_added_up_once_over_devices():
    """Not rank by rank: outside of the loop over them."""
    layout = Layout.of({"data": 4, "tensor": 2}, params={"features": "tensor"})
    case = cases.Case("long", 4096, (8, 8), 4, 2048)
    given = jax.eval_shape(lambda: cases.arrays(case))
    grad = jax.ShapeDtypeStruct((case.rows, case.out), jnp.float32)
    options = {"target": CPU, "backend": "xla", "layout": layout}
    text = jax.jit(partial(both, options)).lower(given, grad).compile().as_text()
    assert "while/body" in text
    sums = [line for line in text.splitlines() if re.search(r" all-reduce(-start)?\(", line)]
    assert sums
    assert not any("while/body" in line for line in sums)


@pytest.mark.slow
def test_replicas_side_by_side_over_a_mesh():
    layout = Layout.of({"data": 4, "tensor": 2}, params={"features": "tensor"})
    given, grad = given_and_grad()
    pair = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), (given, grad))
    options = {"target": CPU, "layout": layout}
    found = jax.jit(jax.vmap(partial(both, options)))(*pair)
    doubled = jax.tree.map(lambda a: 2 * a, (given, grad))
    assert exact.off(jax.tree.map(lambda a: a[1], found), both({"target": CPU}, *doubled)) < 1e-6


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_portable_form_is_exported_for_any_number_of_rows(platform):
    given, _ = given_and_grad()
    (rows,) = jax.export.symbolic_shape("rows")
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), given)
    any_rows = tuple(jax.ShapeDtypeStruct((rows, v.shape[1]), v.dtype) for v in given.vectors)
    call = jax.jit(lambda given: low_rank(*given, target=CPU))
    found = jax.export.export(call, platforms=(platform,))(shapes._replace(vectors=any_rows))
    assert "custom_call" not in found.mlir_module().replace("custom_call @shape_assertion", "")
    if platform == "cpu":
        assert exact.off(found.call(given), reference.forward(given)) < 1e-6


def test_the_kernel_is_exported_for_tpus():
    given = cases.arrays(cases.Case("some", 32, (128, 256), 2, 128), jnp.bfloat16)
    call = jax.jit(lambda given: low_rank(*given, target=V5E, backend="tpu"))
    found = jax.export.export(call, platforms=("tpu",))(given)
    assert "tpu_custom_call" in found.mlir_module()


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", [cases.TIMED[0], cases.TESTED[2]], ids=lambda case: case.name)
def test_the_kernel_lowers_for_cuda(case, dtype):
    given = jax.eval_shape(lambda: cases.arrays(case, dtype))
    call = jax.jit(partial(gpu.forward, target=H100))
    with compiled_for():
        text = call.trace(given).lower(lowering_platforms=("cuda",)).as_text()
    assert "__gpu$xla.gpu.triton" in text


def test_a_plan_says_which_backends_run_and_why():
    given, _ = given_and_grad()
    run = plan(given, CPU)
    assert str(run.forward).startswith("low-rank product: xla; not gpu: the target is a CPU")
    assert run.backward.backend == "xla"
    assert plan(given, V5E).forward.backend == "tpu"
    assert plan(given, H100).forward.backend == "gpu"
    old = plan(given, Target("gpu", capability=(7, 5)))
    assert "is older than 8.0" in str(old.forward)
    assert "not compiled for TPU v2" in str(plan(given, Target("tpu", generation="v2")).forward)
    wide = jax.eval_shape(lambda: cases.arrays(cases.Case("wide", 8, (9000,) * 3, 2, 8)))
    assert "27000 features in all do not fit" in str(plan(wide, V5E).forward)
    with pytest.raises(BackendError, match="backward has no backend tpu"):
        plan(given, V5E, backward="tpu")


def test_arguments_that_do_not_fit_are_refused():
    given, _ = given_and_grad()

    def refused(message, **changed):
        with pytest.raises(FusekitError, match=message):
            low_rank(*given._replace(**changed), target=CPU)

    refused("3 vectors has 2 factors", factors=given.factors[:2])
    refused("0 vectors has 3 factors", vectors=())
    short = (given.vectors[0][:3], *given.vectors[1:])
    refused(r"vector 1 has shape \(16, 8\), not \(3, 8\)", vectors=short)
    refused(r"offsets of factor 0 has shape \(4, 24\), not \(3, 24\)", mix=given.mix[:3])
    half = (given.vectors[0], given.vectors[1].astype(jnp.bfloat16), given.vectors[2])
    refused("vector 1 is bfloat16, not float32", vectors=half)

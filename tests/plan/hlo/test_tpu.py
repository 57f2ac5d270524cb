"""Programs that TPU's compiler compiled, on no TPU, against hand counts."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas, topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fusekit.plan.hlo import Costs, costs, parse
from fusekit.report.flops import MARK
from tests.support.compiled import compiled, mapped, mesh_of

pytest.importorskip("libtpu")

ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}
SIZES = {"data": 2, "tensor": 2}
BF16 = jnp.bfloat16


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What libtpu needs where there is no TPU."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


def devices(slices: int = 1) -> Any:
    return topologies.get_topology_desc("v5e:2x2", platform="tpu", num_slices=slices).devices


def found(function: Any, *given: Any, ins: Any = None, out: Any = None) -> Costs:
    """The costs of a function; with `ins`, of one that runs on each device by itself."""
    mesh = mesh_of(devices(), **SIZES)
    if ins is not None:
        function = mapped(function, mesh, ins, out)
    text = compiled(function, mesh, *given, dtype=BF16, out=None if ins is not None else out)
    return costs(text, SIZES)


def test_a_product() -> None:
    one = found(jnp.matmul, ((1024, 512), P("data")), ((512, 2048), P(None, "tensor")))
    assert one.dot_flops == 2 * 512 * 512 * 1024
    assert one.collectives == ()
    # both operands are read once and the result is written once, though one goes to VMEM first
    assert one.hbm_bytes == 2 * (512 * 512 + 512 * 1024 + 512 * 1024)
    # 128 x 128 multiply-adds a cycle on each of four units are the most a v5e does
    assert one.cycles > 512 * 512 * 1024 / (4 * 128 * 128)


def test_arrays_take_the_room_that_the_compiler_gives_them() -> None:
    mesh = mesh_of(devices(), **SIZES)
    where = NamedSharding(mesh, P())
    shapes = [(3,), (100, 3), (3, 1000), (2, 5, 7), (9, 9, 9, 9)]
    arrays = [jax.ShapeDtypeStruct(shape, BF16, sharding=where) for shape in shapes]
    built = jax.jit(lambda *given: [one + one for one in given]).lower(*arrays).compile()
    text, sizes = built.as_text(), built.memory_analysis()
    assert text is not None
    assert sizes is not None
    entry = parse(text).computations[parse(text).entry].parameters.values()
    stored = sum(one.shapes[0].stored for one in entry)
    assert stored == pytest.approx(sizes.argument_size_in_bytes, rel=0.02)
    assert stored > 2 * sum(one.bytes for one in entry)


def test_a_batched_product_is_no_dearer_for_being_a_convolution() -> None:
    one = found(
        lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k),
        ((8, 256, 4, 64), P("data")),
        ((8, 384, 4, 64), P("data")),
    )
    assert one.dot_flops == 2 * 4 * 4 * 256 * 384 * 64


def test_a_scan_whose_turns_only_its_condition_tells() -> None:
    def scanned(x: jax.Array, weights: jax.Array) -> jax.Array:
        def turn(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
            with jax.named_scope(MARK + "trunk"):
                part = jnp.tanh(x @ weight)
                return lax.psum_scatter(part, "tensor", scatter_dimension=1, tiled=True), None

        return lax.scan(turn, x, weights)[0]

    one = found(
        scanned,
        ((512, 256), P()),
        ((5, 256, 512), P()),
        ins=(P(), P()),
        out=P(),
    )
    assert one.unknown_loops == {}
    assert one.dot_flops == 5 * 2 * 512 * 256 * 512
    # [512, 512] in bfloat16 is 2^19 bytes; a group of two sends half
    assert one.ici_bytes_by_axes == {("tensor",): 5 * 2**18}
    assert {(c.opcode, c.times, c.scope) for c in one.collectives} == {
        ("reduce-scatter", 5, "trunk")
    }
    assert one.cycles > 0
    assert one.cycles_by_scope["trunk"] > one.cycles / 2


@pytest.mark.parametrize("unroll", [1, 2, 4])
def test_unrolled_turns_come_to_the_same(unroll: int) -> None:
    def scanned(x: jax.Array, weights: jax.Array) -> jax.Array:
        def turn(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ weight), None

        return lax.scan(turn, x, weights, unroll=unroll, reverse=True)[0]

    one = found(scanned, ((256, 256), P()), ((6, 256, 256), P()))
    assert one.dot_flops == 6 * 2 * 256**3
    assert one.unknown_loops == {}


def test_a_training_step_of_two_nodes() -> None:
    def loss(a: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
        with jax.named_scope(MARK + "image"):
            x = jnp.tanh(x @ a)
        with jax.named_scope(MARK + "head"):
            return ((x @ b).astype(jnp.float32) ** 2).mean()

    def step(a: jax.Array, b: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        grads = jax.grad(loss, argnums=(0, 1))(a, b, x)
        return a - BF16(0.1) * grads[0], b - BF16(0.1) * grads[1]

    one = found(step, ((512, 512), P()), ((512, 512), P()), ((4096, 512), P("data")))
    forward = 2 * 2048 * 512 * 512
    assert one.dot_flops_by_scope == {"image": 2 * forward, "head": 3 * forward}
    assert one.dot_flops == 5 * forward
    assert one.cycles == sum(one.cycles_by_scope.values())
    assert {"image", "head"} <= set(one.cycles_by_scope)
    assert min(one.cycles_by_scope.values()) > 0
    assert set(one.ici_bytes_by_axes) == {("data",)}


def test_slices_are_joined_by_the_slow_network() -> None:
    sizes = {"data": 4, "tensor": 2}
    mesh = mesh_of(devices(slices=2), **sizes)

    def summed(x: jax.Array) -> jax.Array:
        return lax.psum(x, "data")

    text = compiled(mapped(summed, mesh, P(), P()), mesh, ((256, 1024), P()), dtype=BF16)
    one = costs(text, sizes, slices=2, slice_axis="data")
    # 2^19 bytes: scattered between two of a slice, which keep 2^18; these are summed between
    # slices, 2 x 2^18 / 2, and gathered again
    assert one.ici_bytes_by_axes == {("data",): 2 * 2**18}
    assert one.dcn_bytes_by_axes == {("data",): 2**18}
    assert [c.opcode for c in one.collectives if c.dcn] == ["all-reduce"]


def test_a_kernel_counts_apart_with_what_it_declares() -> None:
    def double(given: Any, out: Any) -> None:
        out[...] = given[...] * 2

    def kernel(x: jax.Array) -> jax.Array:
        cost = pallas.CostEstimate(flops=12345, bytes_accessed=6, transcendentals=7)
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pallas.pallas_call(double, out_shape=shape, cost_estimate=cost)(x)

    one = found(kernel, ((256, 256), P()), ins=P(), out=P())
    assert one.custom_calls == {"tpu_custom_call": 1}
    assert one.declared == (("", (12345, 7, 6)),)
    assert one.custom_flops == 12345
    assert one.unestimated["custom-call tpu_custom_call"] == 1
    assert one.dot_flops == 0

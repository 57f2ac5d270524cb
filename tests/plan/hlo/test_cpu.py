"""Programs compiled for eight CPU devices against hand counts."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from fusekit.plan.hlo import Costs, costs
from fusekit.report.flops import MARK
from tests.support.compiled import compiled, mapped, mesh_of

SIZES = {"data": 2, "tensor": 4}


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return mesh_of(jax.devices(), **SIZES)


def found(function: Any, mesh: Mesh, *given: Any, **options: Any) -> Costs:
    return costs(compiled(function, mesh, *given, **options), SIZES)


def moved(costs: Costs) -> list[tuple[str, int, tuple[str, ...], int]]:
    return [(one.opcode, one.bytes, one.axes, one.times) for one in costs.collectives]


def test_a_product_whose_parts_need_nothing_of_each_other(mesh: Mesh) -> None:
    one = found(jnp.matmul, mesh, ((16, 32), P("data")), ((32, 64), P(None, "tensor")))
    assert one.dot_flops == 2 * 8 * 32 * 16
    assert one.collectives == ()
    assert one.cycles == 0
    assert one.unknown_loops == {}


def test_a_product_summed_over_an_axis(mesh: Mesh) -> None:
    one = found(
        jnp.matmul, mesh, ((16, 32), P("data", "tensor")), ((32, 64), P("tensor")), out=P("data")
    )
    assert one.dot_flops == 2 * 8 * 8 * 64
    # [8, 64] in float32 is 2048 bytes, summed over 4: 2 x 2048 x 3 / 4
    assert moved(one) == [("all-reduce", 3072, ("tensor",), 1)]
    assert one.ici_bytes_by_axes == {("tensor",): 3072}


def test_a_sum_in_each_of_five_turns(mesh: Mesh) -> None:
    def scanned(x: jax.Array) -> jax.Array:
        def turn(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            with jax.named_scope(MARK + "trunk"):
                return jnp.sin(lax.psum(carry @ carry, "data")), None

        return lax.scan(turn, x, None, length=5)[0]

    one = found(mapped(scanned, mesh, P(), P()), mesh, ((16, 16), P()))
    assert one.unknown_loops == {}
    assert one.dot_flops_by_scope == {"trunk": 5 * 2 * 16**3}
    assert moved(one) == [("all-reduce", 1024, ("data",), 5)]
    assert one.collectives[0].scope == "trunk"
    assert one.ici_bytes_by_axes == {("data",): 5 * 1024}


def test_every_collective(mesh: Mesh) -> None:
    def each(x: jax.Array) -> tuple[jax.Array, ...]:
        ring = [(i, (i + 1) % 4) for i in range(4)]
        return (
            lax.all_gather(x, "tensor", tiled=True),
            lax.psum_scatter(x, ("data", "tensor"), tiled=True),
            lax.all_to_all(x, "data", 0, 1, tiled=True),
            lax.ppermute(x, "tensor", ring),
        )

    one = found(mapped(each, mesh, P(), P()), mesh, ((16, 16), P()))
    # of 1024 bytes: 3 x 1024, 1024 x 7 / 8, 1024 / 2, 1024
    assert sorted(moved(one)) == [
        ("all-gather", 3072, ("tensor",), 1),
        ("all-to-all", 512, ("data",), 1),
        ("collective-permute", 1024, ("tensor",), 1),
        ("reduce-scatter", 896, ("data", "tensor"), 1),
    ]


def test_gradients_belong_to_the_nodes_of_their_products(mesh: Mesh) -> None:
    def loss(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        with jax.named_scope(MARK + "image"):
            x = jnp.tanh(x @ weights["a"])
        with jax.named_scope(MARK + "head"):
            return ((x @ weights["b"]) ** 2).mean()

    def step(a: jax.Array, b: jax.Array, x: jax.Array) -> Any:
        return jax.grad(loss)({"a": a, "b": b}, x)

    one = found(step, mesh, ((32, 16), P()), ((16, 8), P()), ((64, 32), P("data")))
    assert one.dot_flops_by_scope == {
        "image": 2 * (2 * 32 * 32 * 16),  # forward, and the weights' gradient
        "head": 3 * (2 * 32 * 16 * 8),  # both gradients
    }
    assert sum(one.ici_bytes_by_axes.values()) == (32 * 16 + 16 * 8) * 4
    assert set(one.ici_bytes_by_axes) == {("data",)}


def test_loops_within_loops(mesh: Mesh) -> None:
    def inner(x: jax.Array) -> jax.Array:
        return lax.fori_loop(2, 5, lambda _, c: jnp.sin(c @ c), x)

    one = found(lambda x: lax.fori_loop(0, 4, lambda _, c: inner(c) + 1, x), mesh, ((8, 8), P()))
    assert one.dot_flops == 3 * 4 * 2 * 8**3


def test_a_loop_that_depends_on_data_counts_once(mesh: Mesh) -> None:
    def until(x: jax.Array) -> jax.Array:
        return lax.while_loop(lambda c: c.sum() < 100, lambda c: c @ c, x)

    one = found(until, mesh, ((8, 8), P()))
    assert one.dot_flops == 2 * 8**3
    assert list(one.unknown_loops.values()) == [1]


def test_of_a_choice_the_dearer(mesh: Mesh) -> None:
    def choose(x: jax.Array) -> jax.Array:
        return lax.cond(x[0, 0] > 0, lambda c: c @ c @ c, lambda c: c @ c, x)

    assert found(choose, mesh, ((8, 8), P())).dot_flops == 2 * 2 * 8**3


def test_a_convolution_over_its_padding(mesh: Mesh) -> None:
    def convolve(x: jax.Array, k: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers)

    one = found(convolve, mesh, ((4, 6, 6, 3), P("data")), ((3, 3, 3, 5), P()))
    assert one.dot_flops == 2 * 2 * 5 * 16 * 16 * 3  # 16 of 18 pairs along each axis


def test_what_is_added_is_read_and_written(mesh: Mesh) -> None:
    one = found(lambda x: x + 1, mesh, ((64, 64), P("data")))
    assert one.hbm_bytes == 2 * (32 * 64 * 4)

"""FLOPs against hand counts, against XLA's own count, and scanned against unrolled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from fusekit.graph import Graph
from fusekit.model import FusionModel
from fusekit.report.flops import count, node_flops
from fusekit.scope import node_scope


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def total(function: Callable[..., Any], *shapes: jax.ShapeDtypeStruct) -> int:
    return count(jax.make_jaxpr(function)(*shapes).jaxpr).total()


def convolve(x: jax.Array, k: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_products_by_hand() -> None:
    assert total(lambda a, b: a @ b, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    assert total(lambda a, b: jnp.einsum("bik,bjk->bij", a, b), shape(2, 3, 5), shape(2, 4, 5)) == (
        2 * 2 * 3 * 4 * 5
    )
    assert total(convolve, shape(2, 6, 6, 3), shape(3, 3, 3, 4)) == 2 * (2 * 4 * 4 * 4) * (
        3 * 3 * 3
    )
    sizes = jax.ShapeDtypeStruct((2,), jnp.int32)
    assert total(lax.ragged_dot, shape(6, 5), shape(2, 5, 7), sizes) == 2 * 6 * 5 * 7


def test_arithmetic_by_hand() -> None:
    assert total(lambda a: a * 2 + 1, shape(4, 5)) == 40
    assert total(lambda a: jnp.sum(a, axis=0), shape(4, 5)) == 20
    assert total(lambda a: a.T.reshape(2, 10)[:1], shape(4, 5)) == 0


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda a, b: a @ b + 1.0, (shape(8, 16), shape(16, 4))),
        (convolve, (shape(1, 9, 9, 2), shape(3, 3, 2, 5))),
        (lambda a, b: jnp.einsum("bthk,bshk->bhts", a, b), (shape(1, 7, 2, 4), shape(1, 6, 2, 4))),
    ],
)
def test_agrees_with_xla_where_there_is_no_loop(function: Any, shapes: Any) -> None:
    theirs: Any = jax.jit(function).lower(*shapes).cost_analysis()
    assert total(function, *shapes) == theirs["flops"]


def test_loops_count_as_often_as_they_run() -> None:
    def once(c: jax.Array, w: jax.Array) -> jax.Array:
        return c @ w

    def looped(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.scan(lambda c, _: (once(c, w), None), x, None, length=6)[0]

    one = total(once, shape(2, 4), shape(4, 4))
    assert total(looped, shape(2, 4), shape(4, 4)) == 6 * one
    assert total(jax.checkpoint(looped), shape(2, 4), shape(4, 4)) == 6 * one


def test_a_branch_counts_as_its_dearest() -> None:
    def either(x: jax.Array, w: jax.Array) -> jax.Array:
        return lax.cond(True, lambda: x @ w, lambda: x)

    assert total(either, shape(2, 4), shape(4, 4)) == 2 * 2 * 4 * 4


def test_a_custom_derivative_counts_its_primal_once() -> None:
    relu = total(jax.nn.relu, shape(3, 5))
    assert relu == 15


def test_marks_attribute_to_nodes_even_inside_loops() -> None:
    def marked(x: jax.Array, w: jax.Array) -> jax.Array:
        with node_scope("one"):
            x = x @ w

        def body(c: jax.Array, _: None) -> tuple[jax.Array, None]:
            with node_scope("two"):
                return jax.jit(lambda c: c @ w)(c), None

        return lax.scan(body, x, None, length=3)[0]

    found = count(jax.make_jaxpr(marked)(shape(2, 4), shape(4, 4)).jaxpr)
    assert found["one"] == 64
    assert found["two"] == 3 * 64


def test_nodes_by_hand(tiny: Graph) -> None:
    """One affine map each: products, then one addition an output."""
    found = node_flops(FusionModel(tiny))
    assert found["left"] >= 2 * 4 * 8 + 8
    assert found["left"] - found["right"] <= 2 * (4 - 3) * 8  # right is optional: some masks more
    assert 0 <= found["class"] - (2 * 16 * 2 + 2) <= 4


def test_scanned_layers_count_like_unrolled_ones(crossed: Graph) -> None:
    scanned, unrolled = (node_flops(FusionModel(crossed, scan=n)) for n in (2, 0))
    assert set(scanned) == set(unrolled)
    for node, flops in unrolled.items():
        assert scanned[node] == pytest.approx(flops, rel=0.02, abs=4), node
    products = 4 * 2 * 5 * (4 * 8 * 8 + 2 * 8 * 32)
    assert unrolled["image"] > products

"""FLOPs and least bytes against numbers worked by hand."""

import jax.numpy as jnp
import pytest

from fusekit_modules.ops.contrastive import cases, floors


def test_of_two_products_a_score():
    case = cases.Case("gram", cases.GRAM, 4, 6, 5, 2)
    given, *_ = cases.arrays(case, jnp.bfloat16)
    vectors = 2 * (4 * 5 + 2 * 6 * 5)  # of two bytes a number
    product = 2 * 4 * 6 * 5 * 2
    assert floors.forward(given)[:2] == (product, vectors + 4 * (4 + 6))
    # the same again, and the gradients by rows and by columns
    assert floors.backward(given)[:2] == (3 * product, 2 * vectors + 4 * 4 * (4 + 6))


def test_seconds_are_the_longer():
    floor = floors.Floor(flops=600, bytes=50)
    assert floor.seconds(100, 10) == pytest.approx(6)
    assert floor.seconds(1000, 10) == pytest.approx(5)

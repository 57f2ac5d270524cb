"""Operations and least bytes against numbers worked by hand."""

import jax.numpy as jnp

from fusekit_modules.ops.selective_scan import cases, floors
from fusekit_modules.ops.selective_scan.form import given_of


def made(case):
    given, options = cases.arrays(case, jnp.bfloat16)
    return given_of(**given, **options)


def test_of_a_small_scan():
    given = made(cases.Case("one", 2, 5, 3, 4))
    states, tokens, of_size, state = 2 * 5 * 3 * 4, 2 * 2 * 5 * 3, 2 * 2 * 5 * 4, 4 * 2 * 3 * 4
    read = 2 * tokens + 2 * of_size + state + 4 * 3 * 4
    assert floors.forward(given) == (6 * states, read + tokens + state, states)
    assert floors.backward(given) == (18 * states, 2 * read + tokens + state, states)


def test_mamba_is_bound_by_arithmetic():
    """Of one row of eight; the vector units of a v5e do 6.1e12 operations a second."""
    one = floors.forward(made(cases.Case("one row", 1, 2048, 1536, 16)))
    assert 8 * one.exponentials == 8 * 2048 * 1536 * 16
    assert one.seconds(4 * 1024 * 1.5e9, 819e9) == one.flops / (4 * 1024 * 1.5e9)

"""FLOPs and least bytes against numbers worked by hand."""

import jax.numpy as jnp
import pytest

from fusekit_modules.ops.stream_attention import cases, floors
from fusekit_modules.ops.stream_attention.form import form_of


def test_the_floor_of_one_stream():
    case = cases.Case("one", 2, 3, 4, (5,), (7,), ((0,),))
    queries, sources = cases.arrays(case, jnp.bfloat16)
    form = form_of(queries, sources, heads=3, scale=None, reads=case.reads)
    weights = 2 * 3 * 5 * 7
    read, written = 2 * 12 * (5 + 7 + 7), 2 * 12 * 5  # numbers, of two bytes each
    assert floors.forward(form, queries, sources) == (
        4 * 4 * weights,
        2 * (read + written),
        weights,
    )
    read, written = 2 * 12 * (3 * 5 + 7 + 7), 2 * 12 * (5 + 7 + 7)
    assert floors.backward(form, queries, sources) == (
        10 * 4 * weights,
        2 * (read + written),
        weights,
    )


def test_the_bottleneck_case_is_bound_by_memory():
    case = cases.TIMED[0]
    queries, sources = cases.arrays(cases.Case("small", 1, *_but_batch(case)), jnp.bfloat16)
    form = form_of(queries, sources, heads=case.heads, scale=None, reads=case.reads)
    one = floors.forward(form, queries, sources)
    assert 32 * one.flops == pytest.approx(20.1e9, rel=0.01)
    assert 32 * one.bytes == 120 * 2**20
    assert one.seconds(197e12, 819e9) == one.bytes / 819e9


def _but_batch(case):
    return case.heads, case.head_dim, case.queries, case.sources

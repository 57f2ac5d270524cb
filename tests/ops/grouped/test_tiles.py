"""Which tiles meet which groups, by going through all rows; and what they save."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.report.flops import count
from fusekit_modules.ops.grouped_product import xla
from fusekit_modules.ops.grouped_product.tiles import MOST, Meeting, tile_of


@pytest.mark.parametrize("seed", range(8))
def test_every_row_of_a_group_is_met_once(seed):
    rng = np.random.default_rng(seed)
    tile, count = 8, 64
    sizes = rng.multinomial(rng.integers(0, count + 1), rng.dirichlet(np.full(6, 0.5)))
    numbers = jnp.arange(count // tile + len(sizes) - 1)
    found = Meeting.at(numbers, jnp.asarray(sizes, jnp.int32), count, tile)
    met = [
        (int(group), row)
        for group, start, first, end in zip(*map(np.asarray, found), strict=True)
        for row in range(start, start + tile)
        if first <= row < end
    ]
    due = [(group, row) for row, group in enumerate(np.repeat(np.arange(len(sizes)), sizes))]
    assert sorted(met, key=lambda pair: pair[1]) == due


def test_tiles_are_a_quarter_of_the_rows_at_most():
    assert tile_of(32768, 8) == MOST
    assert tile_of(4096, 8) == 128
    assert tile_of(4000, 8) == 64
    assert tile_of(10, 8) == 8


def test_an_exported_program_takes_any_number_of_rows():
    shape = jax.ShapeDtypeStruct
    (count,) = jax.export.symbolic_shape("n")
    given = shape((count, 6), jnp.float32), shape((3,), jnp.int32), shape((3, 6, 5), jnp.float32)
    program = jax.export.export(jax.jit(xla.forward))(*given)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6, 5)), jnp.float32)
    for sizes in ((1, 0, 2), (70, 64, 66), (0, 0, 5)):
        rows = np.random.default_rng(0).normal(size=(sum(sizes) + 1, 6)).astype(np.float32)
        found = program.call(rows, jnp.asarray(sizes, jnp.int32), weights)
        groups = np.repeat(np.arange(3), sizes)
        due = np.einsum("nd,ndh->nh", rows[:-1], np.asarray(weights)[groups])
        np.testing.assert_allclose(found[:-1], due, atol=1e-5)
        assert np.all(found[-1] == 0)


@pytest.mark.parametrize(("rows", "groups"), [(16, 64), (196, 8), (4, 8)])
def test_only_products_of_use_are_counted(rows, groups):
    """And what it takes to find the tiles, which hangs on groups alone."""
    shape = jax.ShapeDtypeStruct
    given = shape((rows, 600), jnp.float32), shape((groups,), jnp.int32)
    weights = shape((groups, 600, 500), jnp.float32)
    found = count(jax.make_jaxpr(xla.forward)(*given, weights).jaxpr).total()
    useful = 2 * rows * 600 * 500
    assert useful <= found < 1.02 * useful


def test_of_no_rows_there_is_nothing():
    sizes, weights = jnp.zeros(3, jnp.int32), jnp.ones((3, 6, 5))
    assert xla.forward(jnp.ones((0, 6)), sizes, weights).shape == (0, 5)
    by_rows, by_weights = xla.backward(jnp.ones((0, 6)), sizes, weights, jnp.ones((0, 5)))
    assert by_rows.shape == (0, 6)
    assert not np.any(by_weights)


def test_rows_are_not_copied_for_every_group():
    """Compiled for this CPU: `ragged_dot` holds the rows of all eight groups eight times."""
    rows, weights = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2048, 256), (8, 256, 512)))
    sizes = jax.ShapeDtypeStruct((8,), jnp.int32)
    grad = jax.ShapeDtypeStruct((2048, 512), jnp.float32)
    program = jax.jit(xla.backward).lower(rows, sizes, weights, grad).compile()
    assert program.memory_analysis().temp_size_in_bytes < 10 << 20  # of weights, a tile and rows
    naive = jax.jit(lambda r, s, w: jax.lax.ragged_dot(r, w, s)).lower(rows, sizes, weights)
    assert naive.compile().memory_analysis().temp_size_in_bytes > 16 << 20

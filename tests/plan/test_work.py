"""What a traced step does by what a layout cuts, worked by hand."""

import jax
import jax.numpy as jnp
import pytest

from fusekit.plan.work import ROWS, WHOLE, Kind, Tag, Work

BATCH = 6
COLUMNS, LINES = Tag(frozenset({1})), Tag(frozenset({0}))
WIDTH, HIDDEN = 4, 8
FLOAT = 4


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def walked(function, args, tags, batch=BATCH):
    work = Work(batch)
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return work, work.walk(jaxpr, tags)


X, UP, DOWN = shape(ROWS, WIDTH), shape(WIDTH, HIDDEN), shape(HIDDEN, WIDTH)


def network(x, up, down):
    return x + jnp.tanh(x @ up) @ down


def test_a_network_cut_by_columns_and_then_by_lines_is_summed_once():
    work, (out,) = walked(network, (X, UP, DOWN), [WHOLE, COLUMNS, LINES])
    flops = 2 * BATCH * WIDTH * HIDDEN
    assert [one.flops for one in work.products] == [flops, flops]
    assert {one.cut for one in work.products} == {Kind(rows=True, split=True)}
    assert work.products[0].bytes == {
        Kind(True, False): BATCH * WIDTH * FLOAT,
        Kind(False, True): WIDTH * HIDDEN * FLOAT,
        Kind(True, True): BATCH * HIDDEN * FLOAT,
    }
    assert dict(work.summed) == {True: BATCH * WIDTH * FLOAT}
    assert out == WHOLE
    # tanh on what is cut, the sum of both ways on what is whole
    assert work.vector[Kind(True, True)] == BATCH * HIDDEN
    assert work.vector[Kind(True, False)] == BATCH * WIDTH


def test_gradients_are_summed_forward_and_backward_and_weights_are_not():
    def objective(x, up, down):
        return jnp.sum(network(x, up, down) ** 2)

    gradient = jax.grad(objective, (0, 1, 2))
    work, tags = walked(gradient, (X, UP, DOWN), [WHOLE, COLUMNS, LINES])
    assert dict(work.summed) == {True: 2 * BATCH * WIDTH * FLOAT}
    assert [tag.split for tag in tags] == [frozenset(), frozenset({1}), frozenset({0})]
    assert sum(one.flops for one in work.products) == 6 * 2 * BATCH * WIDTH * HIDDEN


def test_what_is_bound_together_is_cut_each_as_it_was():
    _, tags = walked(lambda *both: jax.lax.optimization_barrier(both), (UP, X), [COLUMNS, WHOLE])
    assert tags == [COLUMNS, WHOLE]


def test_a_result_with_other_axes_is_not_cut_as_the_first():
    _, (vectors, values) = walked(jax.lax.linalg.eigh, (shape(WIDTH, WIDTH),), [COLUMNS])
    assert vectors.split
    assert values == WHOLE


def test_parts_of_a_sum_are_added_before_they_are_summed():
    def function(x, a, b):
        return jnp.tanh(x @ a + x @ b)

    hidden = shape(ROWS, HIDDEN)
    tags = [COLUMNS, LINES, LINES]
    work, _ = walked(function, (hidden, DOWN, DOWN), tags)
    assert dict(work.summed) == {True: BATCH * WIDTH * FLOAT}


def test_heads_follow_their_axis_through_reshapes():
    def function(x, up, down):
        heads = jnp.reshape(x @ up, (ROWS, 2, HIDDEN // 2))
        scores = jnp.einsum("bhd,bhe->bhde", heads, heads)
        mixed = jnp.einsum("bhde,bhe->bhd", jax.nn.softmax(scores), heads)
        return jnp.reshape(mixed, (ROWS, HIDDEN)) @ down

    work, (out,) = walked(function, (X, UP, DOWN), [WHOLE, COLUMNS, LINES])
    assert all(one.cut.split for one in work.products)
    assert out.part
    assert not work.summed  # nothing has met the parts yet


def test_loops_count_as_often_as_they_turn_and_a_layer_holds_one_turn():
    def function(x, ups, downs):
        body = lambda x, w: (network(x, *w), None)  # noqa: E731
        return jax.lax.scan(body, x, (ups, downs))[0]

    args = (X, shape(3, WIDTH, HIDDEN), shape(3, HIDDEN, WIDTH))
    tags = [WHOLE, Tag(frozenset({2})), Tag(frozenset({1}))]
    work, _ = walked(function, args, tags)
    assert dict(work.summed) == {True: 3 * BATCH * WIDTH * FLOAT}
    assert sum(one.flops for one in work.products) == 3 * 2 * 2 * BATCH * WIDTH * HIDDEN
    assert work.turn == {
        Kind(True, True): BATCH * HIDDEN * FLOAT,
        Kind(True, False): BATCH * WIDTH * FLOAT,
    }


def test_pairs_of_rows_grow_with_the_square_of_the_batch():
    work, _ = walked(lambda x: x @ x.T, (X,), [WHOLE])
    (product,) = work.products
    assert product.flops == pytest.approx(2 * BATCH**2 * WIDTH)
    assert product.out == (Kind(True, False), pytest.approx(BATCH**2 * FLOAT))


def test_sums_across_lanes_cost_more_than_sums_down_rows():
    across, _ = walked(lambda x: jnp.sum(x, 1), (X,), [WHOLE])
    down, _ = walked(lambda x: jnp.sum(x, 0), (X,), [WHOLE])
    assert across.vector[Kind(True, False)] == 28 * BATCH * WIDTH
    assert down.vector[Kind(True, False)] == BATCH * WIDTH

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from fusekit.conformance.cases import Case
from fusekit.conformance.run import failures
from fusekit.errors import WiringError
from fusekit.stream import Span, Stream, sequence, vector
from fusekit_modules.losses.optimal_transport import OptimalTransportSpec
from tests.modules.losses.harness import GARBAGE, gradient, inert, run, scalar

TWO = {"a": sequence(4, 3, padded=True), "b": sequence(5, 3, padded=True)}
ROWS = np.array([True, False, True, True])
MASKS = {
    "a": np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]], bool),
    "b": np.array([[1, 1, 1, 0, 0], [1] * 5, [1, 0, 1, 1, 0], [0] * 5], bool),
}
COUNTED = (0, 2)
"""Of the rows that count, those whose sequences both have tokens."""


def spec(**fields):
    return OptimalTransportSpec(**{"inputs": ["a", "b"], **fields})


def drawn(dtype="float64"):
    rng = np.random.default_rng(4)
    shapes = {"a": (4, 4, 3), "b": (4, 5, 3)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def streams_of(values):
    return {n: Stream(jnp.asarray(v), jnp.asarray(MASKS[n])) for n, v in values.items()}


def costs(values, row, cost):
    x, y = (np.asarray(values[n][row][MASKS[n][row]], "float64") for n in "ab")
    if cost == "squared":
        return np.array([[np.sum((u - v) ** 2) for v in y] for u in x])
    cosine = [[u @ v / np.linalg.norm(u) / np.linalg.norm(v) for v in y] for u in x]
    return 1 - np.array(cosine)


def entropic(cost, regularisation):
    """The primal problem: the plan by scaling its rows and columns, then its cost."""
    n, m = cost.shape
    shares = np.full((n, m), 1 / (n * m))
    plan = shares * np.exp(-cost / regularisation)
    for _ in range(5000):
        plan *= (1 / n) / plan.sum(1, keepdims=True)
        plan *= (1 / m) / plan.sum(0, keepdims=True)
        if np.abs(plan.sum(1) - 1 / n).max() < 1e-15:
            break
    return np.sum(plan * cost) + regularisation * np.sum(plan * np.log(plan / shares))


def exact(cost):
    """Without entropy, as a linear program."""
    n, m = cost.shape
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    sums = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return linprog(cost.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=sums).fun


@pytest.mark.parametrize(("cost", "regularisation"), [("cosine", 0.1), ("squared", 1.0)])
@pytest.mark.parametrize("role", ["a", "b"])
def test_against_numpy(cost, regularisation, role):
    values = drawn()
    chosen = spec(cost=cost, regularisation=regularisation, iterations=1000)
    with jax.enable_x64(True):
        streams = streams_of(values)

        def loss(given):
            changed = {**streams, role: streams[role].with_(values=given)}
            return scalar(run(chosen, TWO, changed, ROWS))

        def plain(given):
            changed = {**values, role: given}
            each = [entropic(costs(changed, row, cost), regularisation) for row in COUNTED]
            return np.mean(each)

        grad = gradient(loss, values[role], plain)
        assert not np.any(grad[~MASKS[role]])
        inert(chosen, TWO, streams, ROWS, role=role)


@pytest.mark.parametrize(("cost", "regularisation"), [("cosine", 0.1), ("squared", 1.0)])
def test_in_float32(cost, regularisation):
    values = drawn("float32")
    chosen = spec(cost=cost, regularisation=regularisation, iterations=300)
    out = run(chosen, TWO, streams_of(values), ROWS)
    due = [entropic(costs(values, row, cost), regularisation) for row in COUNTED]
    np.testing.assert_allclose(np.asarray(out.total)[list(COUNTED)], due, rtol=1e-5)
    np.testing.assert_array_equal(out.weight, [1, 0, 1, 0])


@pytest.mark.parametrize("cost", ["cosine", "squared"])
@pytest.mark.parametrize("regularisation", [0.05, 0.01, 0.002])
def test_against_a_linear_program(cost, regularisation):
    """Above the cost without entropy by the most that the entropy can be."""
    values = drawn()
    chosen = spec(cost=cost, regularisation=regularisation, iterations=20_000)
    with jax.enable_x64(True):
        out = run(chosen, TWO, streams_of(values), ROWS)
    for row in COUNTED:
        table = costs(values, row, cost)
        gap = float(out.total[row]) - exact(table)
        assert -1e-6 <= gap <= regularisation * np.log(min(table.shape))
        if regularisation == 0.002:
            np.testing.assert_allclose(gap, 0, atol=0.01)


def test_padding_is_not_read():
    values = drawn("float32")

    def outcome(garbage):
        filled = {n: np.where(MASKS[n][..., None], v, garbage) for n, v in values.items()}

        def loss(given):
            streams = {n: Stream(v, jnp.asarray(MASKS[n])) for n, v in given.items()}
            return scalar(run(spec(), TWO, streams, ROWS))

        return jax.jit(jax.value_and_grad(loss))({n: jnp.asarray(v) for n, v in filled.items()})

    plain = jax.tree.leaves(outcome(0.0))
    for garbage in GARBAGE:
        for first, second in zip(plain, jax.tree.leaves(outcome(garbage)), strict=True):
            np.testing.assert_array_equal(first, second)


def test_readout_tokens_are_left_out():
    values, with_readout = drawn("float32"), (Span("z", 1, readout=True), Span("a", 4))
    more = jnp.concatenate([jnp.ones((4, 1, 3)), jnp.asarray(values["a"])], axis=1)
    streams = streams_of(values)
    mask = jnp.asarray(np.pad(MASKS["a"], ((0, 0), (1, 0)), constant_values=True))
    longer = {**TWO, "a": sequence(5, 3, padded=True, spans=with_readout)}
    plain = run(spec(), TWO, streams, ROWS)
    found = run(spec(), longer, {**streams, "a": Stream(more, mask, spans=with_readout)}, ROWS)
    np.testing.assert_array_equal(plain.total, found.total)
    only = (Span("z", 5, readout=True),)
    found = run(spec(), longer, {**streams, "a": Stream(more, mask, spans=only)}, ROWS)
    assert np.all(np.asarray(found.total)[list(COUNTED)] > 0)


@pytest.mark.parametrize("settings", OptimalTransportSpec.examples())
@pytest.mark.parametrize("padded", [True, False])
def test_laws(settings, padded):
    inputs = {f"m{i}": sequence(6, 8, label="a", padded=padded, optional=padded) for i in (0, 1)}
    case = Case(OptimalTransportSpec(**{**settings, "inputs": list(inputs)}), inputs, "sequences")
    assert not list(failures(case))


def test_misfits():
    with pytest.raises(WiringError, match="number of inputs"):
        spec().check({name: sequence(4, 3) for name in "abc"})
    with pytest.raises(WiringError, match="differ in embed"):
        spec().check({"a": sequence(4, 3), "b": sequence(4, 5)})
    with pytest.raises(WiringError, match="where a sequence is due"):
        spec().check({"a": sequence(4, 3), "b": vector(3)})

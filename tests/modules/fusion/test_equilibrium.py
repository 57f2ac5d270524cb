"""Fixed points and the equilibrium fusion against long plain iterations, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream, vector
from fusekit_modules.fusion._fixed_point import Solver, fixed_point, solve_positive
from fusekit_modules.fusion.equilibrium import EquilibriumSpec
from tests.modules.fusion import harness
from tests.modules.fusion.harness import Case

WIDTHS = [3, 2]
TIGHT = {"width": 6, "tolerance": 1e-14, "iterations": 300}


def relu(x):
    return np.maximum(x, 0)


def grouped(p, name, x, groups, k=...):
    split = x.reshape(groups, -1)
    split = split - split.mean(axis=1, keepdims=True)
    split = split / np.sqrt((split**2).mean(axis=1, keepdims=True) + 1e-5)
    return split.reshape(-1) * p[f"{name}.scale"][k] + p[f"{name}.bias"][k]


def reference(groups, steps=2000):
    def run(p, xs):
        x = {k: v @ p[f"project.{k}.kernel"] + p[f"project.{k}.bias"] for k, v in xs.items()}
        width = p["gate.bias"].size
        z, fused, last = {k: np.zeros(width) for k in x}, np.zeros(width), np.inf
        for _ in range(steps):
            total = np.zeros(width)
            for k in x:
                (a, b), (c, d) = p["update.kernels"][:, k], p["update.biases"][:, k]
                h = relu(grouped(p, "update.norms.0", z[k] @ a + c, groups, k)) @ b + d + x[k]
                h = grouped(p, "update.norms.1", h, groups, k)
                z[k] = grouped(p, "update.norms.2", relu(h + z[k]), groups, k)
                gate = (z[k] + fused) @ p["update.gate.kernel"] + p["update.gate.bias"]
                total = total + gate * fused
            total = total @ p["update.fuse.kernel"] + p["update.fuse.bias"] + sum(x.values())
            fused = grouped(p, "update.norm", relu(total), groups)
            now = np.concatenate([fused, *z.values()])
            if np.abs(now - last).max() < 1e-15:
                break
            last = now
        return fused

    return lambda p, xs: run({**p, "gate.bias": p["update.gate.bias"]}, xs)


def calm(case):
    """Parameters whose update is a contraction, so that the plain iteration gets there too."""
    for path, leaf in case.parameters.items():
        if path.startswith("update."):
            weak = 0.05 if path.endswith(("kernel", "kernels")) else 0.3
            case.parameters[path] = leaf * weak
        if path.endswith("scale"):
            case.parameters[path] = case.parameters[path] + (2 if "norms.1" in path else 0.2)
        if path.startswith("project"):
            case.parameters[path] = 2 * leaf


@pytest.mark.parametrize(("solver", "groups"), [("anderson", 1), ("iteration", 2)])
def test_against_a_long_iteration(solver, groups):
    spec = EquilibriumSpec(**TIGHT, solver=solver, groups=groups)
    inputs = {f"m{i}": vector(width, optional=True) for i, width in enumerate(WIDTHS)}
    case, presence = Case(spec, inputs, seed=3), harness.patterns(2)
    calm(case)
    arrays = harness.inputs_of(case, len(presence))
    plain, given = reference(groups), (case, arrays, presence)
    harness.compare_values(*given, plain, ("out",))
    assert np.all(np.asarray(case.run(arrays, presence)["residual"].values) <= 1e-13)
    harness.compare_gradients(*given, plain, ("out",), "$^")
    harness.compare_garbage(*given, ("out", "residual"))
    harness.compare_signatures(*given)


def affine(theta, z):
    return jnp.tanh(z @ theta[0] + theta[1])


@pytest.mark.parametrize("method", ["anderson", "iteration"])
def test_the_gradient_is_that_of_the_equation(method):
    """dz = (1 - J)^-1 df by a dense solve, under jit and vmap over replicas."""
    rng = np.random.default_rng(0)
    kernels, x, weight = (rng.normal(size=s) for s in ((2, 4, 4), (3, 4), (3, 4)))
    kernels, solver = kernels * 0.3, Solver(method, 1e-14, 500, 5)
    with jax.enable_x64(True):

        def loss(kernel, x):
            z, residual = fixed_point(affine, solver, (kernel, x), jnp.zeros_like(x))
            return jnp.sum(z * weight), (z, residual)

        graded = jax.jit(jax.vmap(jax.grad(loss, (0, 1), has_aux=True), in_axes=(0, None)))
        (by_kernel, by_x), (z, residual) = graded(jnp.asarray(kernels), jnp.asarray(x))
    assert np.all(np.asarray(residual) <= 1e-14)
    for r, kernel in enumerate(kernels):
        want = np.zeros_like(kernel)
        for b in range(3):
            state = np.zeros(4)
            for _ in range(500):
                state = np.tanh(state @ kernel + x[b])
            np.testing.assert_allclose(z[r, b], state, rtol=1e-10)
            slope = 1 - state**2
            adjoint = np.linalg.solve(np.eye(4) - kernel * slope, weight[b])
            np.testing.assert_allclose(by_x[r, b], adjoint * slope, rtol=1e-9)
            want += np.outer(state, adjoint * slope)
        np.testing.assert_allclose(by_kernel[r], want, rtol=1e-9)


def test_mixing_reaches_what_plain_iteration_does_not():
    """Of an affine map, in about as many steps as it has dimensions, contraction or not."""
    rng = np.random.default_rng(1)
    kernel, x = rng.normal(size=(4, 4)), rng.normal(size=(2, 4))
    assert np.abs(np.linalg.eigvals(kernel)).max() > 1
    with jax.enable_x64(True):
        solver = Solver("anderson", 1e-9, 30, 6)
        z, residual = fixed_point(
            lambda t, z: z @ t[0] + t[1], solver, (jnp.asarray(kernel), jnp.asarray(x)), x * 0
        )
    assert np.all(np.asarray(residual) <= 1e-9)
    np.testing.assert_allclose(z, np.linalg.solve((np.eye(4) - kernel).T, x.T).T, rtol=1e-6)


def test_a_sample_stops_by_itself():
    """What is done stays as it is, bit for bit, however long the others take."""
    rng = np.random.default_rng(2)
    kernel = np.float32(rng.normal(size=(4, 4)) * 0.6)
    x = np.float32(rng.normal(size=(3, 4)))
    solver = Solver("anderson", 1e-3, 50, 3)
    run = jax.jit(lambda x: fixed_point(affine, solver, (kernel, x), jnp.zeros_like(x)))
    easy, hard = run(x), run(np.concatenate([x[:1], 100 * x[1:]]))
    for one, other in zip(easy, hard, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_elimination():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 5, 5))
    a, right = a @ a.swapaxes(1, 2) + 0.1 * np.eye(5), rng.normal(size=5)
    with jax.enable_x64(True):
        found = solve_positive(jnp.asarray(a), jnp.asarray(right))
    np.testing.assert_allclose(found, [np.linalg.solve(one, right) for one in a], rtol=1e-10)


def test_the_jacobian_is_estimated_at_the_fixed_point():
    """|probe J|^2 / n, J by central differences."""
    case = Case(EquilibriumSpec(**TIGHT, jacobian=True), {"a": vector(3), "b": vector(2)}, seed=3)
    calm(case)
    arrays = harness.inputs_of(case, 1)
    steps = np.concatenate([1e-6 * np.eye(18), -1e-6 * np.eye(18)])
    with jax.enable_x64(True):

        @jax.jit
        def jacobian(parameters, arrays):
            module = case.merged(parameters)
            given = [p(x) for p, x in zip(module.project, arrays.values(), strict=True)]
            injected, ones = jnp.stack(given, axis=1), jnp.ones((1, 2))
            z = jax.lax.fori_loop(
                0, 200, lambda _, z: module.update(z, injected, ones), jnp.zeros((1, 18))
            )
            moved = module.update(z + steps, jnp.repeat(injected, 36, 0), jnp.repeat(ones, 36, 0))
            return (moved[:18] - moved[18:]).T / 2e-6

        found = case.run(arrays, None)["jacobian"].values
        given = jax.tree.map(jnp.asarray, (case.parameters, arrays))
        key = Context(key=jax.random.key(0), path="node").rng("jacobian")
        probe = jax.random.normal(key, (1, 18), jnp.float64)
        want = np.mean((probe @ jacobian(*given)) ** 2, axis=1)
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_it_starts_with_a_fixed_point():
    """By default settings, at parameters as they are drawn."""
    case = Case(EquilibriumSpec(width=32), {"a": vector(8), "b": vector(8)})
    module = case.spec.build(case.inputs, rngs=nnx.Rngs(0))
    streams = {k: Stream(case.rng.normal(size=(64, 8)).astype("float32")) for k in "ab"}
    assert np.all(np.asarray(module(streams, context=Context())["residual"].values) <= 1e-4)


def test_refuses():
    with pytest.raises(WiringError, match="groups do not divide"):
        EquilibriumSpec(groups=4).infer({"a": vector(6), "b": vector(6)})

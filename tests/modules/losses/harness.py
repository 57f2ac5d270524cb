"""Runs a loss in float64 and holds its gradient against central differences."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fusekit.conformance.laws import quick
from fusekit.context import Context
from fusekit.stream import Signature, Stream

GARBAGE = (np.nan, np.inf, -np.inf, 1e30)


def run(
    spec: Any, inputs: Mapping[str, Signature], streams: Mapping[str, Stream], rows: Any = None
) -> Any:
    """The loss by row, as the program calls it."""
    spec.check(inputs)
    module = spec.build(dict(inputs), rngs=nnx.Rngs(0))
    count = next(iter(streams.values())).batch
    rows = jnp.ones((count,), bool) if rows is None else jnp.asarray(rows)
    return module(dict(streams), rows=rows, context=Context())


def fast(
    spec: Any, inputs: Mapping[str, Signature], streams: Mapping[str, Stream], rows: Any = None
) -> Any:
    """`run`, compiled as one."""
    return quick(lambda streams: run(spec, inputs, streams, rows))(dict(streams))


def scalar(value: Any) -> Any:
    """sum(total) / sum(weight), zero where nothing counts."""
    weight = jnp.sum(value.weight)
    return jnp.where(weight > 0, jnp.sum(value.total) / jnp.where(weight > 0, weight, 1), 0.0)


def gradient(
    loss: Callable[[Any], Any], at: np.ndarray, reference: Callable[[np.ndarray], float]
) -> np.ndarray:
    """The gradient at `at` in float64, checked against central differences of the loss as NumPy
    alone has it; so is the value."""
    at = np.asarray(at, np.float64)
    found, value = map(np.asarray, quick(jax.value_and_grad(loss))(jnp.asarray(at)))
    np.testing.assert_allclose(found, reference(at), rtol=1e-10)
    numeric = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-5
        numeric[index] = (reference(at + step) - reference(at - step)) / 2e-5
    np.testing.assert_allclose(value, numeric, rtol=1e-6, atol=1e-8)
    return value


def inert(
    spec: Any,
    inputs: Mapping[str, Signature],
    streams: dict[str, Stream],
    rows: np.ndarray,
    role: str = "prediction",
) -> None:
    """Contents of rows that do not count change neither the value nor the gradient, bit for bit."""

    given = streams[role]

    def loss(values: Any) -> Any:
        return scalar(run(spec, inputs, {**streams, role: given.with_(values=values)}, rows))

    compiled = quick(jax.value_and_grad(loss))

    def outcome(garbage: float) -> list[np.ndarray]:
        full = rows.reshape(rows.shape + (1,) * (given.values.ndim - 1))
        values = np.where(full, np.asarray(given.values), garbage)
        value, grad = compiled(jnp.asarray(values))
        assert np.all(np.asarray(grad)[~rows] == 0)
        return [np.asarray(value), np.asarray(grad)]

    plain = outcome(0.0)
    assert np.isfinite(plain[0])
    for garbage in GARBAGE:
        for first, second in zip(plain, outcome(garbage), strict=True):
            np.testing.assert_array_equal(first, second)


class Stepped:
    """A loss that keeps variables, in float64: one compiled step of training, with gradients.

    Args:
      spec: of the loss.
      inputs: its signatures by role.
    """

    def __init__(self, spec: Any, inputs: Mapping[str, Signature]):
        spec.check(inputs)
        module = spec.build(dict(inputs), rngs=nnx.Rngs(0))
        self.graph, params, rest = nnx.split(module, nnx.Param, ...)
        plain = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
        self.params, self.variables = jax.tree.map(double, plain)

        def step(mode: Any, params: Any, variables: Any, floats: Any, others: Any, rows: Any):
            def loss(params: Any, floats: Any) -> Any:
                streams = {r: Stream(v) for r, v in {**floats, **others}.items()}
                module: Any = nnx.merge(self.graph, nnx.State(params), nnx.State(variables))
                value = module(streams, rows=rows, context=Context(mode=mode))
                return scalar(value), nnx.to_pure_dict(nnx.state(module, nnx.Not(nnx.Param)))

            return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, floats)

        self.steps = {mode: quick(partial(step, mode)) for mode in ("train", "evaluate")}

    def __call__(self, floats: Any, others: Any, rows: Any, mode: str = "train") -> Any:
        """The loss and its gradients by role (`slopes`: of parameters); the variables move on."""
        given = jax.tree.map(jnp.asarray, (floats, others, rows))
        (value, after), (slopes, grads) = self.steps[mode](self.params, self.variables, *given)
        self.variables, self.slopes = after, jax.tree.map(np.asarray, slopes)
        return float(value), jax.tree.map(np.asarray, grads)

    def variable(self, name: str) -> np.ndarray:
        leaves = jax.tree_util.tree_leaves_with_path(self.variables)
        found = {".".join(str(getattr(k, "key", k)) for k in path): v for path, v in leaves}
        return np.asarray(found[name])


def double(leaf: Any) -> Any:
    """Real arrays in float64, where that is enabled."""
    real = jnp.issubdtype(leaf.dtype, jnp.floating)
    return leaf.astype(jnp.result_type(float)) if real else leaf


def differences(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Central differences of a function of an array."""
    found = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-5
        found[index] = (function(at + step) - function(at - step)) / 2e-5
    return found

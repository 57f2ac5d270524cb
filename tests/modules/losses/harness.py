"""Runs a loss in float64 and holds its gradient against central differences."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

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
    np.testing.assert_allclose(float(loss(jnp.asarray(at))), reference(at), rtol=1e-10)
    value = np.asarray(jax.grad(loss)(jnp.asarray(at)))
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

    def outcome(garbage: float) -> list[np.ndarray]:
        def loss(values: Any) -> Any:
            return scalar(run(spec, inputs, {**streams, role: given.with_(values=values)}, rows))

        given = streams[role]
        full = rows.reshape(rows.shape + (1,) * (given.values.ndim - 1))
        values = np.where(full, np.asarray(given.values), garbage)
        value, grad = jax.jit(jax.value_and_grad(loss))(jnp.asarray(values))
        assert np.all(np.asarray(grad)[~rows] == 0)
        return [np.asarray(value), np.asarray(grad)]

    plain = outcome(0.0)
    assert np.isfinite(plain[0])
    for garbage in GARBAGE:
        for first, second in zip(plain, outcome(garbage), strict=True):
            np.testing.assert_array_equal(first, second)

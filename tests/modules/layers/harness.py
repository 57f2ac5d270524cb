"""Modules with random float64 parameters, and gradients against central differences."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fusekit.context import Context

Arrays = dict[str, np.ndarray]
STILL = Context(dtype=jnp.float64)
TIGHT = {"rtol": 1e-10, "atol": 1e-10}


@contextmanager
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def randomised(module: nnx.Module, seed: int = 0, dtype: str = "float64") -> tuple[Any, Arrays]:
    """`call(parameters) -> module`, and random parameters by path."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    rng = np.random.default_rng(seed)
    leaves = sorted(nnx.to_flat_state(params), key=lambda item: str(item[0]))
    names = [".".join(map(str, path)) for path, _ in leaves]
    arrays = {
        name: rng.normal(size=leaf.shape) * 0.5
        for name, (_, leaf) in zip(names, leaves, strict=True)
    }

    def build(parameters: Any) -> Any:
        given = [
            (path, leaf.replace(jnp.asarray(parameters[name], dtype)))
            for name, (path, leaf) in zip(names, leaves, strict=True)
        ]
        return nnx.merge(graph, nnx.from_flat_state(given), jax.tree.map(jnp.asarray, rest))

    return build, arrays


def check_gradients(
    f: Callable[[Any], Any], g: Callable[[Arrays], np.ndarray], arrays: Arrays, seed: int = 1
) -> None:
    """Gradients of sum(f(arrays) * weight) by every array, along a random direction, against
    central differences of the NumPy form `g`."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=np.shape(g(arrays)))
    with float64():
        grads = jax.jit(jax.grad(lambda a: jnp.sum(f(a) * weight)))(
            {name: jnp.asarray(array, jnp.float64) for name, array in arrays.items()}
        )
    for name, array in arrays.items():
        direction = rng.normal(size=array.shape)
        ahead = np.sum(g({**arrays, name: array + 1e-5 * direction}) * weight)
        behind = np.sum(g({**arrays, name: array - 1e-5 * direction}) * weight)
        got = np.sum(np.asarray(grads[name]) * direction)
        np.testing.assert_allclose(got, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-7, err_msg=name)

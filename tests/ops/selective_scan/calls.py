"""What the tests of the selective scan share: calls with gradients, and what they should give."""

import jax
import jax.numpy as jnp
import numpy as np

from fusekit_modules.ops.selective_scan import cases, selective_scan
from tests.ops.selective_scan import exact

LIMITS = {jnp.float32: 1e-5, jnp.bfloat16: 5e-3}


def called(given, options, **how):
    state = given["state"]
    rest = {name: array for name, array in given.items() if name != "state"}
    return selective_scan(**rest, state=state, **options, **how)


def slopes(case, dtype=jnp.float32):
    """Gradients of the results, NaN where a token is not there."""
    rng = np.random.default_rng(11)
    given, options = cases.arrays(case)
    y = rng.standard_normal(given["x"].shape)
    if options["valid"] is not None:
        y[~np.asarray(options["valid"])] = np.nan
    return jnp.asarray(y, dtype), jnp.asarray(rng.standard_normal(given["state"].shape))


def both(given, options, grads, **how):
    """Results, and gradients by name."""

    def run(given, grads):
        found, back = jax.vjp(lambda given: called(given, options, **how), given)
        return found, back(grads)[0]

    return jax.jit(run)(given, grads)


def check(case, dtype, **how):
    """Results and gradients are those of float64, of the same numbers."""
    given, options = cases.arrays(case, dtype)
    grads = slopes(case, dtype)
    (y, last), found = both(given, options, grads, **how)
    wide = {name: np.asarray(array, np.float64) for name, array in given.items()}
    options = {k: None if v is None else np.asarray(v) for k, v in options.items()}
    due_y, due_last, _ = exact.forward(wide, options)
    due = exact.backward(wide, options, *(np.asarray(g, np.float64) for g in grads))
    assert (y.dtype, last.dtype) == (dtype, jnp.float32)
    assert exact.off(y, due_y) < LIMITS[dtype]
    assert exact.off(last, due_last) < LIMITS[dtype]
    for name, array in found.items():
        assert array.dtype == given[name].dtype
        assert exact.off(array, due[name]) < LIMITS[dtype], name
    if options["valid"] is not None:
        for array in (y, found["x"], found["delta"], found["into"], found["out"]):
            assert not np.asarray(array, np.float32)[~options["valid"]].any()

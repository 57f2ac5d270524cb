"""Dropout and drop-path: what is kept, how it is scaled, and when nothing happens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.context import Context
from fusekit_modules.layers.dropout import drop_path_factor, dropout

TRAIN = Context("train", jax.random.key(0))


def test_dropout_keeps_the_mean():
    y = np.asarray(dropout(jnp.ones((100, 100)), 0.25, context=TRAIN))
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(y.mean(), 1, atol=0.03)


def test_nothing_outside_training():
    x = jnp.arange(4.0)
    for context in (Context(), Context("predict", jax.random.key(0))):
        np.testing.assert_array_equal(dropout(x, 0.9, context=context), x)
        assert drop_path_factor(4, 0.9, 2, context=context) is None


@pytest.mark.parametrize(("kept", "scaled"), [("rescaled", True), ("plain", False)])
def test_drop_path_grows_with_depth(kept, scaled):

    @jax.jit
    def factors(layer):
        return drop_path_factor(4000, 0.8, 5, context=TRAIN.at("x", layer), kept=kept)

    for layer in range(5):
        rate = 0.8 * layer / 4
        factor = factors(jnp.asarray(layer))
        assert factor.shape == (4000, 1, 1)
        np.testing.assert_allclose(np.mean(np.asarray(factor) > 0), 1 - rate, atol=0.03)
        top = 1 / (1 - rate) if scaled else 1.0
        np.testing.assert_allclose(np.max(np.asarray(factor)), top, rtol=1e-6)

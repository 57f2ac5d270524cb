"""`parameter_free_attention` against loops over tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence
from fusekit_modules.fusion.parameter_free_attention import ParameterFreeAttentionSpec, dropped
from tests.modules.fusion.inside import hold
from tests.reference import inside


def test_against_numpy():
    def form(p, own, x, xs):
        ys = [xs[k] for k in (1, 2) if k in xs]
        return inside.parameter_free(p, own, x, ys, 0.4, 0.7)

    streams = [sequence(3, 4, label="a"), sequence(3, 4, padded=True), sequence(1, 4)]
    spec = ParameterFreeAttentionSpec(drop=0.4, scale=0.7)
    hold(spec, streams, inside.edited(form, [3], 4), reads=2)


def test_dropping_by_hand():
    """Of four valid keys half go; what equals the least kept stays; padding counts in nothing."""
    scores = jnp.asarray([[[3.0, 1.0, -2.0, 1.0, 9.0]]])
    valid = jnp.asarray([[True, True, True, True, False]])
    got = dropped(scores, valid, 0.5)
    np.testing.assert_array_equal(got, [[[3.0, 1.0, 0.0, 1.0, 0.0]]])
    np.testing.assert_array_equal(dropped(scores, None, 0.8), [[[0.0, 0.0, 0.0, 0.0, 9.0]]])
    np.testing.assert_array_equal(dropped(scores, valid & False, 0.5), np.zeros((1, 1, 5)))


def test_refuses_another_width():
    with pytest.raises(WiringError, match="width of the stack"):
        ParameterFreeAttentionSpec().infer_edit((sequence(3, 4),), {"y": sequence(2, 3)})

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Signature, Stream, sequence, vector
from fusekit_modules.losses.auxiliary import AuxiliarySpec
from tests.modules.losses.harness import gradient, inert, run, scalar

SPEC = AuxiliarySpec(input="experts.balance", weight=0.01)


@pytest.mark.parametrize("signature", [Signature(()), vector(3)])
def test_mean_over_rows(signature):
    values = np.random.default_rng(0).normal(size=(4, *signature.shape))
    rows = np.array([True, False, True, False])
    inputs = {"input": signature}
    with jax.enable_x64(True):

        def loss(given):
            return scalar(run(SPEC, inputs, {"input": Stream(given)}, rows))

        gradient(loss, values, lambda given: given[rows].mean())
        inert(SPEC, inputs, {"input": Stream(jnp.asarray(values))}, rows, role="input")


def test_misfit():
    with pytest.raises(WiringError, match="one number a row"):
        SPEC.check({"input": sequence(3, 2)})

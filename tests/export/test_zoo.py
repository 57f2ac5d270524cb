"""Every published system that comes as a config, exported for all platforms and run."""

from pathlib import Path

import jax
import numpy as np
import pytest

import fusekit
from fusekit.export.function import Function
from fusekit.export.lower import PLATFORMS, custom_calls, lowered
from tests.export.shipped import EVERY, inputs_of, parameters_of

KNOWN = {
    "cpu": {"shape_assertion"},
    "cuda": {"shape_assertion"},
    "tpu": {"shape_assertion"},
}


@pytest.mark.slow
@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_a_system_answers_the_same_from_its_export(path: Path):
    program = fusekit.compile(fusekit.load(path))
    state = program.init(0)
    function = Function(program.graph)
    inputs, batch = inputs_of(function)
    for platform in PLATFORMS:
        exported = lowered(function, platform)
        assert set(custom_calls(exported)) <= KNOWN[platform]
        assert exported.platforms == (platform,)
    with jax.default_matmul_precision("highest"):
        parameters = parameters_of(program, state, function)
        found = lowered(function, "cpu").call(parameters, inputs)
        live = program.predict(state, batch)
    for name, stream in live.items():
        np.testing.assert_allclose(found[name], stream.values, rtol=1e-6, atol=1e-6)
        assert (stream.presence is not None) == (f"{name}.presence" in found)

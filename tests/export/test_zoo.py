"""Every published system that comes as a config, exported for all platforms and run."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import fusekit
from fusekit.export.function import Function
from fusekit.export.lower import PLATFORMS, custom_calls, lowered
from fusekit.export.manifest import Input

CONFIGS = Path(__file__).parents[2] / "configs"
EVERY = [
    *sorted((CONFIGS / "zoo").glob("*.yaml")),
    *sorted((CONFIGS / "examples").glob("*.yaml")),
    *sorted((CONFIGS / "examples" / "digits").glob("*.yaml")),
]
KNOWN = {
    "cpu": {"shape_assertion"},
    "cuda": {"shape_assertion"},
    "tpu": {"shape_assertion"},
}
ROWS = 5


def arrays_of(one: Input, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random rows of an input; the first is whole, the last is absent if it may be."""
    shape = (ROWS, *one.values.shape[1:])
    values: Any = rng.normal(size=shape).astype(one.values.dtype)  # pyright: ignore
    if one.values.dtype == "int32":
        values = rng.integers(0, one.classes or 2, shape).astype("int32")  # pyright: ignore
    for field, count in enumerate(one.cardinalities):
        if count:
            values[:, field] = rng.integers(0, count, ROWS)
    found = {one.values.name: values}
    if one.mask is not None:
        lengths = rng.integers(1, int(one.mask.shape[1]) + 1, ROWS)
        lengths[0] = one.mask.shape[1]
        found[one.mask.name] = np.arange(int(one.mask.shape[1])) < lengths[:, None]
    if one.presence is not None:
        found[one.presence.name] = rng.random(ROWS) < 0.6
        found[one.presence.name][[0, -1]] = True, False
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_a_system_answers_the_same_from_its_export(path: Path):
    program = fusekit.compile(fusekit.load(path))
    state = program.init(0)
    function = Function(program.graph)
    rng = np.random.default_rng(0)
    inputs = {name: a for one in function.inputs for name, a in arrays_of(one, rng).items()}
    batch = {
        one.name: fusekit.Stream(
            *(None if port is None else inputs[port.name]  # pyright: ignore
              for port in (one.values, one.mask, one.presence))
        )
        for one in function.inputs
    }  # fmt: skip
    for platform in PLATFORMS:
        exported = lowered(function, platform)
        assert set(custom_calls(exported)) <= KNOWN[platform]
        assert exported.platforms == (platform,)
    with jax.default_matmul_precision("highest"):
        flat = program.flat(state)
        parameters = {
            name: flat.get(f"params.{name}", flat.get(f"variables.{name}"))
            for name in function.used
        }
        found = lowered(function, "cpu").call(parameters, inputs)
        live = program.predict(state, batch)
    for name, stream in live.items():
        np.testing.assert_allclose(found[name], stream.values, rtol=1e-6, atol=1e-6)
        assert (stream.presence is not None) == (f"{name}.presence" in found)

"""Every published system and example that comes as a config, and inputs for them."""

from pathlib import Path
from typing import Any

import numpy as np

import fusekit
from fusekit.export.function import Function
from fusekit.export.manifest import Input
from fusekit.program import Program

CONFIGS = Path(__file__).parents[2] / "configs"
EVERY = [
    *sorted((CONFIGS / "zoo").glob("*.yaml")),
    *sorted((CONFIGS / "examples").glob("*.yaml")),
    *sorted((CONFIGS / "examples" / "digits").glob("*.yaml")),
]
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


def inputs_of(function: Function) -> tuple[dict[str, np.ndarray], dict[str, fusekit.Stream]]:
    """What an exported program takes, and the same as the live model takes it."""
    rng = np.random.default_rng(0)
    inputs = {name: a for one in function.inputs for name, a in arrays_of(one, rng).items()}
    batch = {
        one.name: fusekit.Stream(
            *(None if port is None else inputs[port.name]  # pyright: ignore
              for port in (one.values, one.mask, one.presence))
        )
        for one in function.inputs
    }  # fmt: skip
    return inputs, batch


def parameters_of(program: Program, state: Any, function: Function) -> dict[str, Any]:
    """Those that an exported program reads."""
    flat = program.flat(state)
    return {n: flat.get(f"params.{n}", flat.get(f"variables.{n}")) for n in function.used}

"""The same answers as an ONNX file, by way of jax2onnx, which knows most of what jax can do."""

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fusekit.errors import ExportError
from fusekit.export.function import Function

ONNX = "model.onnx"
INSTALL = "pip install 'fusekit[onnx]', then pip install --no-deps 'jax2onnx>=0.17'"


def write_onnx(function: Function, parameters: dict[str, Any], folder: Path) -> Path:
    """Writes `model.onnx`, parameters inside, for any number of rows. Inputs and outputs are named
    as in `export.json`.

    Raises:
      ExportError: jax2onnx is not installed, or knows no way to say what the model does.
    """
    for name in ("jax2onnx", "onnx_ir"):  # they warn of what is no fault
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ExportError(f"ONNX is written by jax2onnx, which is missing: {INSTALL}") from error
    ports = [port for one in function.inputs for port in one.ports]
    names = [port.name for port in ports]
    results = [port.name for one in function.outputs for port in one.ports]
    _, shapes = function.arguments(function.rows)

    def call(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        found = function(parameters, dict(zip(names, arrays, strict=True)))
        return tuple(_anew(found[name]) for name in results)

    file = folder / ONNX
    try:
        jax2onnx.to_onnx(
            call,
            [shapes[name] for name in names],
            model_name="fusekit",
            input_names=names,
            output_names=results,
            return_mode="file",
            output_path=str(file),
        )
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ExportError(f"jax2onnx cannot convert this model: {told}") from error
    return file


def _anew(array: jax.Array) -> jax.Array:
    """A flag may be one of the inputs as it came, and a value of ONNX has one name."""
    return array | jnp.zeros_like(array) if array.dtype == bool else array

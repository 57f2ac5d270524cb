"""From a function to a serialised program for one platform, and what that program holds."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax
import jax.export

from fusekit.errors import ExportError

if TYPE_CHECKING:
    from fusekit.export.function import Function

PLATFORMS = ("cpu", "cuda", "tpu")
PRECISIONS = ("default", "high", "highest")

_CUSTOM = re.compile(r'stablehlo\.custom_call @"?([\w.$]+)')
_DOUBLE = re.compile(r"[<x](?:f64|complex<f64>)>")


TRITON = jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
"""Kernels for GPUs go to Triton, whose form JAX does not promise to keep."""


def lowered(
    function: "Function", platform: str, *, precision: str = "default", rows: int | None = None
) -> Any:
    """The `jax.export.Exported` of a function, for any number of rows; or for so many, which may
    then be worked on by kernels.

    Raises:
      ExportError: a component asks for the number of rows, computes in float64, or calls what is
        not promised to stay as it is from one compiler to the next.
    """
    wanted = None if precision == "default" else precision
    try:
        parameters, inputs = function.arguments(rows or function.rows)
        parameters = {name: parameters[name] for name in function.used}
        with jax.default_matmul_precision(wanted), _without_locations():
            given = {"platforms": (platform,), "disabled_checks": (TRITON,) if rows else ()}
            found = jax.export.export(function.jitted, **given)(parameters, inputs)
    except ValueError as error:
        raise ExportError(f"cannot be exported to {platform}: {error}") from error
    except Exception as error:  # jax has no public name for most that may happen here
        message = f"{_where(error)} cannot do with any number of rows: {error}"
        raise ExportError(message) from error
    if _DOUBLE.search(found.mlir_module()):
        raise ExportError(f"the program for {platform} computes in float64")
    return found


@contextmanager
def _without_locations() -> Iterator[None]:
    """Programs without the files and lines that they were traced from: those are of this machine,
    and the same model is to give the same bytes."""
    before = jax.config.jax_traceback_in_locations_limit  # pyright: ignore
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def custom_calls(exported: Any) -> tuple[str, ...]:
    """What a program calls that is no StableHLO: only the platform's compiler knows it."""
    return tuple(sorted(set(_CUSTOM.findall(exported.mlir_module()))))


def serialised(exported: Any) -> bytes:
    """The bytes of a program. Raises `ExportError` if the package that writes them is missing."""
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise _missing(error) from error


def deserialised(content: bytes) -> Any:
    """The program of some bytes. Raises `ExportError`."""
    try:
        return jax.export.deserialize(bytearray(content))
    except ImportError as error:
        raise _missing(error) from error
    except Exception as error:  # flatbuffers has no error of its own
        told = f"{type(error).__name__}: {error}"
        raise ExportError(f"this jax cannot read the program: {told}") from error


def _missing(error: ImportError) -> Exception:
    if "flatbuffers" not in str(error):
        return error
    return ExportError("jax needs flatbuffers to store programs: pip install 'fusekit[export]'")


def _where(error: BaseException) -> str:
    """The last line outside of jax that an error came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/jax/" not in f.filename]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "a component"

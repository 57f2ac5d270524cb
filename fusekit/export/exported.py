"""Reads an export and runs it. Needs jax and NumPy, and no model code."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from fusekit.errors import ExportError, nearest
from fusekit.export.lower import deserialised
from fusekit.export.manifest import Manifest, Stored
from fusekit.export.safetensors import load as read_arrays

BACKENDS = {"gpu": "cuda"}
"""What jax calls a backend, where exports call it otherwise."""
CHUNK = 1 << 22


@dataclass(frozen=True)
class Exported:
    """An export that can be called.

    Args:
      manifest: what it is.
      platform: whose program it is.
      program: a `jax.export.Exported`.
      parameters: on the device, by canonical path.
    """

    manifest: Manifest
    platform: str
    program: Any = field(repr=False)
    parameters: dict[str, Any] = field(repr=False)

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The answers to some rows; compiled once for each number of rows. A program for a fixed
        number of rows answers part by part.

        Raises `ExportError` for inputs that are missing, unknown or of the wrong shape, or for
        another number of rows than the program's, if answers depend on the other rows.
        """
        self._check(inputs)
        found = self._parts(self._call, self.parameters, dict(inputs))
        return {name: np.asarray(value) for name, value in found.items()}

    @property
    def fixed(self) -> int | None:
        """How many rows the program takes; `None`: any number."""
        return self.manifest.programs[self.platform].rows

    def _parts(self, call: Any, parameters: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answers to any number of rows, of which the last part is filled up with its first."""
        size, count = self.fixed, np.shape(next(iter(inputs.values())))[0]
        if size is None or count == size:
            return call(parameters, inputs)
        if self.manifest.coupled:
            message = f"the program for {self.platform} takes {size} rows, not {count}"
            because = f"{', '.join(self.manifest.coupled)} would see those that fill up"
            raise ExportError(f"{message}: {because}")
        found: list[Mapping[str, Any]] = []
        for start in range(0, count, size):
            part = {name: np.asarray(array)[start : start + size] for name, array in inputs.items()}
            short = size - len(next(iter(part.values())))
            full = {n: np.concatenate([a, np.repeat(a[:1], short, 0)]) for n, a in part.items()}
            found.append(call(parameters, full))
        return {
            name: np.concatenate([np.asarray(one[name]) for one in found])[:count]
            for name in found[0]
        }

    @cached_property
    def _call(self) -> Any:
        return jax.jit(self.program.call)

    def _check(self, inputs: Mapping[str, Any]) -> None:
        due = {port.name: port for one in self.manifest.inputs for port in one.ports}
        for name in inputs:
            if name not in due:
                close = nearest(name, due) or tuple(due)
                raise ExportError(f"no input is called {name}: {', '.join(close)}")
        rows = np.shape(inputs[next(iter(due))])[:1] if next(iter(due)) in inputs else ()
        for name, port in due.items():
            if name not in inputs:
                raise ExportError(f"the input {name} is missing")
            shape = np.shape(inputs[name])
            if shape[:1] != rows or shape[1:] != port.shape[1:] or not all(rows):
                sizes = ", ".join(map(str, port.shape))
                raise ExportError(f"{name} has shape {shape}; expected ({sizes})")

    def compiled(self, rows: int) -> Any:
        """The executable for so many rows, called as `executable(parameters, inputs)`."""
        if self.fixed is None:
            return self._compiled(rows)
        return partial(self._parts, self._whole)

    @cached_property
    def _whole(self) -> Any:
        """The executable of a program for a fixed number of rows."""
        return self._compiled(self.fixed)

    def _compiled(self, rows: int | None) -> Any:
        inputs = {
            port.name: jax.ShapeDtypeStruct((rows, *port.shape[1:]), port.dtype)  # pyright: ignore
            for one in self.manifest.inputs
            for port in one.ports
        }
        return self._call.lower(self.parameters, inputs).compile()


def load(folder: str | PathLike[str], *, platform: str | None = None) -> Exported:
    """Reads an export whose files are as they were written, parameters onto the device.

    Args:
      folder: of the export.
      platform: default that of this process.

    Raises:
      ExportError: it is no export, is damaged, or has no program for the platform.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    backend = jax.default_backend()
    platform = platform or BACKENDS.get(backend, backend)
    if platform not in manifest.programs:
        known = ", ".join(manifest.programs)
        raise ExportError(f"{folder} has no program for {platform}: {known}")
    stored = manifest.programs[platform]
    for each in (stored, manifest.parameters):
        _verify(folder, each)
    program = deserialised((folder / stored.file).read_bytes())
    arrays = read_arrays(folder / manifest.parameters.file)
    return Exported(manifest, platform, program, {n: jax.device_put(a) for n, a in arrays.items()})


def _verify(folder: Path, stored: Stored) -> None:
    file = folder / stored.file
    if not file.is_file():
        raise ExportError(f"{file} is missing")
    found = hashlib.blake2b(digest_size=32)
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            found.update(chunk)
    if file.stat().st_size != stored.bytes or found.hexdigest() != stored.blake2b:
        raise ExportError(f"{file} is not as it was written")

"""Arrays in the safetensors format: a JSON header, then the bytes of each array, little-endian.

The header says of each array its dtype, shape and where its bytes lie. Nothing is executed.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from fusekit.errors import ExportError

NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_DTYPES = {name: np.dtype(getattr(ml_dtypes, kind, kind)) for kind, name in NAMES.items()}
ALIGNED = 8
LONGEST = 100_000_000
"""A longer header is none."""


def save(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays, one after another, so that one at a time is in host memory.

    Wider dtypes come first, so that every array begins at a multiple of its item size.
    """
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header, at = {}, 0
    for name in order:
        array = arrays[name]
        size = prod(array.shape) * array.dtype.itemsize
        header[name] = {
            "dtype": NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            array = np.ascontiguousarray(arrays[name])
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def load(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file, mapped and not read. Raises `ExportError` for what is no such file."""
    try:
        raw = np.memmap(path, np.uint8, "r")
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        if start > min(LONGEST, len(raw)):
            raise ValueError(f"its header would end at byte {start}")
        header = json.loads(raw[8:start].tobytes())
        header.pop("__metadata__", None)
        return {name: _array(raw[start:], entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{path} is no safetensors file: {error}") from error


def _array(raw: NDArray[np.uint8], entry: dict[str, Any]) -> NDArray[Any]:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    first, last = entry["data_offsets"]
    if not 0 <= first <= last <= len(raw) or last - first != prod(shape) * dtype.itemsize:
        raise ValueError(f"bytes {first} to {last} cannot hold shape {shape} of {dtype}")
    return raw[first:last].view(dtype).reshape(shape)

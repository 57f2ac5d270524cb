"""Writing files so that a reader never sees half of one."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write(path: Path, text: str) -> None:
    """Writes beside the file, flushes to disk, then renames over it.

    Raises:
      OSError: the file cannot be written; `filename` says which, for a full disk as well.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.strerror:
            error.filename = str(path)
        raise


def append(path: Path, text: str) -> None:
    """Adds to the end of a file. Raises `OSError` that says which file."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        error.filename = str(path)
        raise


def write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(tame(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def tame(value: Any) -> Any:
    """The value as JSON can hold it: numbers that are not finite are null."""
    if isinstance(value, dict):
        return {str(key): tame(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tame(item) for item in value]
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return tame(value.tolist())
    return str(value)

"""NumPy archives, read once a process and never unpickled."""

from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.errors import DataError
from fusekit_modules.sources.absent import absent

EMBEDDED = Path(__file__).parent / "data"
"""Where the data sets that come with fusekit lie."""

Arrays = MappingProxyType[str, NDArray[Any]]


def read_archive(path: Path) -> Arrays:
    """The arrays of an .npz file, read-only. Raises `DataError`."""
    try:
        return _read(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise absent(path) from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not a NumPy archive of plain arrays: {error}") from error


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> Arrays:
    with np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        arrays = {name: archive[name] for name in archive.files}
    for array in arrays.values():
        array.flags.writeable = False
    return MappingProxyType(arrays)

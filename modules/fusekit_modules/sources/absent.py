"""What is said of a file that is not there."""

from pathlib import Path

from fusekit.errors import DataError


def absent(path: Path) -> DataError:
    """The error, which for a relative path says where it starts."""
    where = "" if path.is_absolute() else f" in {Path.cwd()}, where relative paths start"
    return DataError(f"there is no file {path}{where}")

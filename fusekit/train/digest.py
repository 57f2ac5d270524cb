"""Digests: what the files of a checkpoint must be.

Orbax does not notice a flipped bit in array data, and a truncated file only once it is read. So
every committed checkpoint gets a manifest with the size and the BLAKE2b hash of each of its files,
and nothing is restored before its files have been compared with it.
"""

import hashlib
import json
from pathlib import Path

from fusekit.train.files import write_json

MANIFEST = "digests.json"
CHUNK = 1 << 22


def digest(file: Path) -> str:
    """The BLAKE2b hash (RFC 7693, 256 bits) of a file."""
    found = hashlib.blake2b(digest_size=32)
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def files(folder: Path) -> list[Path]:
    """Every file below a folder but the manifest."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)


def seal(folder: Path) -> None:
    """Writes the manifest of a folder that will not change any more."""
    found = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "blake2b": digest(file)}
        for file in files(folder)
    }
    write_json(folder / MANIFEST, {"version": 1, "files": found})


def faults(folder: Path) -> list[str]:
    """What is wrong with a sealed folder; nothing if it is as it was."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        due = {str(n): (int(f["size"]), str(f["blake2b"])) for n, f in manifest["files"].items()}
    except FileNotFoundError:
        return [f"has no {MANIFEST}: writing it was cut short, or the file was deleted"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return [f"{MANIFEST} cannot be read"]
    found: list[str] = []
    for name, (size, hashed) in due.items():
        file = folder / name
        if not file.is_file():
            found.append(f"{name} is missing")
        elif file.stat().st_size != size:
            found.append(f"{name} has {file.stat().st_size} bytes, not {size}")
        elif digest(file) != hashed:
            found.append(f"{name} has changed since it was written")
    return found

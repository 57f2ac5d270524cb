"""What compilers said before: by the program's own text, so that nothing stale is ever found."""

import hashlib
import json
import os
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fusekit.plan.compiled import Measure
from fusekit.train.files import write_json

PACKAGES = ("jax", "jaxlib", "libtpu")
PLUGINS_OF_GPUS = ("jax-cuda12-pjrt", "jax-cuda13-pjrt")
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
"""Variables that compilers read."""
FORMAT = 1


class Cache:
    """A folder of measures.

    Args:
      folder: default `fusekit/plans` in the user's cache folder.
    """

    def __init__(self, folder: Path | None = None):
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.folder = folder or Path(home) / "fusekit" / "plans"

    def key(self, *texts: str) -> str:
        """Of a program's text and what it is compiled for, by these versions."""
        digest = hashlib.blake2b(digest_size=20)
        gpus = filter(None, map(_version, PLUGINS_OF_GPUS))
        flags = (os.environ.get(name, "") for name in FLAGS)
        for text in (str(FORMAT), *map(_version, PACKAGES), *gpus, *flags, *texts):
            digest.update(text.encode())
            digest.update(b"\0")
        return digest.hexdigest()

    def get(self, key: str) -> Measure | None:
        """What was said; `None` if nothing, or if the file is damaged."""
        try:
            found: dict[str, Any] = json.loads((self.folder / f"{key}.json").read_text("utf-8"))
            for name in ("ici", "dcn"):
                found[name] = {tuple(axes.split()): value for axes, value in found[name].items()}
            return Measure(**found)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def put(self, key: str, found: Measure) -> None:
        """Keeps it; a folder that cannot be written is let be."""
        plain = asdict(found)
        for name in ("ici", "dcn"):
            plain[name] = {" ".join(axes): value for axes, value in plain[name].items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / f"{key}.json", plain)
        except OSError:
            return


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

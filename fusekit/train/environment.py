"""Where a run happened: versions, devices, command, commit. No environment variables."""

import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import jax

ALWAYS = ("fusekit", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
ACCELERATORS = ("libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin")


def environment() -> dict[str, Any]:
    """What a reader needs in order to repeat a run, as plain data."""
    devices = jax.devices()
    kinds = {device.device_kind: 0 for device in devices}
    for device in devices:
        kinds[device.device_kind] += 1
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions({*ALWAYS, *ACCELERATORS, *_declared()}),
        "backend": jax.default_backend(),
        "devices": kinds,
        "processes": jax.process_count(),
        "command": list(sys.argv),
        "git": commit(Path.cwd()),
        "fusekit_git": own_commit(),
    }


def _declared() -> set[str]:
    """Distributions that fusekit asks for, extras left out."""
    try:
        wanted = requires("fusekit") or []
    except PackageNotFoundError:
        return set()
    plain = (text for text in wanted if "extra ==" not in text)
    return {found.group() for text in plain if (found := re.match(r"[A-Za-z0-9._-]+", text))}


def _versions(names: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted(names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit(folder: Path) -> dict[str, Any] | None:
    """The git commit of a folder and whether files differ from it; None if there is none."""
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return None
    return {"commit": head, "changed": bool(_git(folder, "status", "--porcelain"))}


def own_commit() -> dict[str, Any] | None:
    """The git commit of fusekit itself, where it is run from a repository (installed editable)."""
    file = Path(__file__).resolve()
    return commit(file.parent) if _git(file.parent, "ls-files", file.name) else None


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

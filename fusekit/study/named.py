"""Strategies by name: files next to a config, or types of its one fusion."""

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path, PurePosixPath

from fusekit.config import load
from fusekit.config.compose import PACKAGE, shipped
from fusekit.config.loader import Loaded
from fusekit.config.registry import components
from fusekit.config.spec import Experiment
from fusekit.errors import FusekitError, nearest
from fusekit.graph import resolve

SUFFIXES = (".yaml", ".yml")


def strategies(
    config: str | PathLike[str], names: Iterable[str], overrides: Sequence[str] = ()
) -> dict[str, Experiment]:
    """Experiments by strategy, each checked, wiring included.

    A name is, in this order: the config itself, if that is what its file or its only fusion is
    called; the file `<name>.yaml` in the folder of the config; a type, which the config's only
    fusion then gets.

    Raises:
      ConfigError: an experiment is not possible.
      FusekitError: a name is none of these.
    """
    config = str(config)
    base = load(config, overrides)
    found = {}
    for name in dict.fromkeys(names):
        loaded = _loaded(config, base, name, overrides)
        resolve(loaded.experiment, loaded.locate)
        found[name] = loaded.experiment
    return found


def beside(config: str, name: str) -> str | None:
    """The file `<name>.yaml` in the folder of a config, as text to load it by."""
    inner = config.removeprefix(PACKAGE)
    folder = PurePosixPath(inner).parent if inner != config else Path(config).parent
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if inner != config and (shipped() / path).is_file():
            return f"{PACKAGE}{path}"
        if inner == config and Path(path).is_file():
            return str(path)
    return None


def _loaded(config: str, base: Loaded, name: str, overrides: Sequence[str]) -> Loaded:
    fusion = base.experiment.fusion
    only = next(iter(fusion)) if len(fusion) == 1 else None
    if Path(config).stem == name:
        return base
    if (file := beside(config, name)) is not None:
        return load(file, overrides)
    if only is not None and fusion[only].type == name:
        return base
    if name not in components("fusion"):
        hint = nearest(name, components("fusion"))
        also = f"; did you mean {', '.join(hint)}?" if hint else ""
        raise FusekitError(
            f"{name} is no strategy: there is no {name}.yaml next to {config}, and no such fusion"
            + also
        )
    if only is None:
        raise FusekitError(
            f"{name} cannot be swapped in: {config} has {len(fusion)} fusions;"
            f" write the strategy as {name}.yaml next to it"
        )
    return load(config, [*overrides, f"fusion.{only}.type={name}"])

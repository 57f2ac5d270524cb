"""`fusekit test-component`: the conformance suite, on anyone's component."""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from typing import Annotated

import typer

from fusekit.cli.options import UsageError, without_device

Targets = Annotated[
    list[str],
    typer.Argument(metavar="PATH|NAME", help="Python files that register components, or names"),
]


def command(targets: Targets) -> None:
    """Run the conformance suite on components."""
    without_device()
    from fusekit.config.registry import walk
    from fusekit.errors import nearest

    known = {f"{slot}.{name}" for slot, name, _ in walk()}
    wanted: list[str] = []
    for target in targets:
        if target.endswith(".py"):
            wanted += _registered_by(Path(target))
            continue
        fits = [full for full in sorted(known) if target in (full, full.split(".")[1])]
        if not fits:
            close = nearest(target, {full.split(".")[1] for full in known})
            hint = f"\n    did you mean: {', '.join(close)}" if close else ""
            raise UsageError(f"no component is called {target}{hint}")
        wanted += fits
    try:
        conformance = import_module("fusekit.conformance")
    except ModuleNotFoundError as error:
        if error.name != "fusekit.conformance":
            raise
        raise UsageError("the conformance suite is not part of this installation") from error
    raise typer.Exit(conformance.run(wanted))


def _registered_by(path: Path) -> list[str]:
    """Imports a file and gives the names of what it registers. Raises `UsageError`."""
    from fusekit.config.registry import walk

    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    already = {id(spec) for _, _, spec in walk()}
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported")
    module = sys.modules.setdefault(path.stem, module_from_spec(spec))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(path.stem, None)
        raise UsageError(f"{path} cannot be imported: {_where(error, path)}") from error
    made = [f"{slot}.{name}" for slot, name, one in walk() if id(one) not in already]
    if not made:
        raise UsageError(f"{path} registers no component")
    return made


def _where(error: Exception, path: Path) -> str:
    """What went wrong, and in which line of the file."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):  # its text has the line
        return text
    lines = [f.lineno for f in extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"{text} (line {lines[-1]})" if lines else text

"""`fusekit new`: a folder with a shipped config to start from."""

from pathlib import Path
from typing import Annotated

import typer

from fusekit.cli.options import UsageError, without_device

README = """# {name}

Started from `fusekit:{origin}`.

    fusekit check {file}
    fusekit show {file} --format svg --output {stem}.svg
    fusekit train {file} --runs runs
    fusekit evaluate runs/{run}/TIME

`{file}` holds the whole experiment. Change a value for one run with
`--set train.learning_rate=1e-4`; `fusekit list` says which components there are.
"""


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="to be made")],
    origin: Annotated[
        str, typer.Option("--from", metavar="examples/NAME", help="which shipped config")
    ],
) -> None:
    """Start a folder from a shipped config."""
    without_device()
    from fusekit.config import dump, load

    found = _shipped(origin)
    experiment = load(f"fusekit:{found}").experiment
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not an empty folder")
    file = f"{Path(found).stem}.yaml"
    name = folder.resolve().name
    run = experiment.meta.name or Path(found).stem
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(dump(experiment), encoding="utf-8")
        text = README.format(name=name, origin=found, file=file, stem=Path(found).stem, run=run)
        (folder / "README.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from error
    typer.echo(f"made {folder / file} and {folder / 'README.md'}")


def _shipped(origin: str) -> str:
    """The path of a shipped config. Raises `UsageError` with those that resemble it."""
    from fusekit.config.compose import shipped
    from fusekit.errors import nearest

    root = shipped()
    known = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.yaml"))
    wanted = origin.removeprefix("fusekit:").removesuffix(".yaml") + ".yaml"
    if wanted in known:
        return wanted
    close = nearest(wanted, known) or tuple(known)
    hint = (
        f"\n    did you mean: {', '.join(c.removesuffix('.yaml') for c in close)}" if close else ""
    )
    raise UsageError(f"no shipped config is called {origin}{hint}")

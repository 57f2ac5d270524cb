"""Options that several commands share."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusekit.errors import FusekitError

if TYPE_CHECKING:
    from fusekit.config import Loaded
    from fusekit.graph import Graph


class UsageError(FusekitError):
    """A command was given something that it cannot do."""


Config = Annotated[
    str, typer.Argument(metavar="CONFIG", help="a YAML file, or fusekit:PATH for a shipped one")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="change one value; may be repeated"),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="write to a file")
]


def without_device() -> None:
    """Keeps JAX to the host: what only checks must not occupy an accelerator."""
    os.environ["JAX_PLATFORMS"] = "cpu"


def resolved(config: str, sets: list[str] | None) -> "tuple[Loaded, Graph]":
    """A config and its graph. Raises `ConfigError` with every problem and its position."""
    from fusekit.api import load_graph

    return load_graph(config, sets or ())


@contextmanager
def placing(loaded: "Loaded") -> Iterator[None]:
    """Gives what is wrong with a config its positions, where it shows only later."""
    from fusekit.errors import ConfigError

    try:
        yield
    except ConfigError as error:
        raise ConfigError(loaded.placed(error.problems)) from error


def title(loaded: "Loaded", config: str) -> str:
    """What to call an experiment: its declared name or that of the file."""
    return loaded.experiment.meta.name or Path(config.removeprefix("fusekit:")).stem


def write(text: str, output: Path | None) -> None:
    """To a file, or to standard output. Raises `UsageError` if the file cannot be written."""
    if output is None:
        typer.echo(text, nl=not text.endswith("\n"))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from error


Runs = Annotated[Path, typer.Option(metavar="DIR", help="where folders of runs lie")]
Replica = Annotated[int, typer.Option(metavar="K", help="which of several seeds")]
Which = Annotated[
    str, typer.Option("--state", metavar="best|last", help="which state; best if there is one")
]

Coordinator = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="where process 0 of several answers the others"),
]
Processes = Annotated[int | None, typer.Option(min=1, metavar="N", help="how many there are")]
Process = Annotated[int | None, typer.Option(min=0, metavar="K", help="which this is, from 0")]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="show no progress")]


def print_metrics(
    split: str, values: "Mapping[str, float] | Sequence[Mapping[str, float]]"
) -> None:
    """A table of metrics: names down; replicas, if there are several, across."""
    columns = [values] if isinstance(values, Mapping) else list(values)
    names = list(columns[0]) if columns else []
    width = max((len(name) for name in names), default=0)
    typer.echo(split)
    for name in names:
        cells = "  ".join(f"{column[name]:10.6g}" for column in columns)
        typer.echo(f"  {name.ljust(width)}  {cells}")

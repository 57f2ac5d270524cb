"""`fusekit train`: from a config to a folder with a trained model."""

import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer

from fusekit.cli.options import (
    Coordinator,
    Process,
    Processes,
    Quiet,
    Runs,
    Sets,
    UsageError,
    placing,
    print_metrics,
    resolved,
    title,
)


def command(
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="as for check; with --resume the run's own"),
    ] = None,
    sets: Sets = None,
    name: Annotated[
        str | None, typer.Option(help="of the run; default meta.name, or the file's")
    ] = None,
    runs: Runs = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="go on with the run in this folder")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="take parameters from a folder of checkpoints"),
    ] = None,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="train N seeds side by side; --resume knows them"),
    ] = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    quiet: Quiet = False,
) -> None:
    """Train; leaves a folder with all results."""
    if resume is not None and start is not None:
        raise UsageError("--resume goes on with a run, --start begins one: give one of them")
    if resume is not None:
        from fusekit.train.resumable import check_resumable

        check_resumable(resume)
    if config is None:
        if resume is None:
            raise UsageError("which CONFIG? Only with --resume it may be left out")
        config = str(resume / "config.yaml")
    from fusekit.hosts.join import joined

    with joined(coordinator, processes, process):
        loaded, graph = resolved(config, sets)
        from fusekit.report import svg
        from fusekit.report.summary import summarise
        from fusekit.train.experiment import train
        from fusekit.train.run import first_host

        called = name or title(loaded, config)
        picture = svg.render(summarise(graph, flops=True, title=called))
        with placing(loaded):
            result = train(
                loaded.experiment,
                run_root=runs,
                name=called,
                resume=resume,
                start=start,
                replicas=replicas,
                progress=not quiet,
                pictures=[("What was trained", picture)],
            )
        first = first_host()
    if not first:
        raise typer.Exit(0 if result.stopped is None else _status(result.stopped))
    if result.stopped is not None:
        typer.echo(f"{result.stopped} after step {result.steps}; to go on:", err=True)
        typer.echo(f"    fusekit train --resume {shlex.quote(str(result.folder))}", err=True)
        raise typer.Exit(_status(result.stopped))
    for split, values in result.metrics.items():
        print_metrics(split, values)
    typer.echo(f"run {result.folder}")


def _status(stopped: str) -> int:
    """The exit status after a signal."""
    return 128 + signal.Signals[stopped].value

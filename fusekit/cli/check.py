"""`fusekit check`: is a config possible? Needs no device and allocates no weight."""

import typer

from fusekit.cli.options import Config, Sets, resolved, title, without_device


def command(config: Config, sets: Sets = None) -> None:
    """Check a config: words, wiring and widths."""
    without_device()
    loaded, graph = resolved(config, sets)
    from fusekit.report.summary import summarise

    summary = summarise(graph, title=title(loaded, config))
    typer.echo(f"OK {summary.title}: {summary.counts()}")

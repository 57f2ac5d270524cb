"""`fusekit show`: an experiment as a tree of text or a diagram."""

from importlib import import_module
from typing import Annotated, Literal

import typer

from fusekit.cli.options import Config, Output, Sets, resolved, title, without_device, write


def command(
    config: Config,
    sets: Sets = None,
    form: Annotated[
        Literal["text", "mermaid", "svg"], typer.Option("--format", "-f", help="how to show it")
    ] = "text",
    output: Output = None,
) -> None:
    """Show shapes, parameters, FLOPs, operators."""
    without_device()
    loaded, graph = resolved(config, sets)
    from fusekit.report.summary import summarise

    summary = summarise(graph, flops=form != "mermaid", title=title(loaded, config))
    write(import_module(f"fusekit.report.{form}").render(summary), output)

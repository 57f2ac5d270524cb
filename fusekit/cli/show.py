"""`fusekit show`: an experiment as a tree of text or a diagram."""

from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fusekit.cli.options import (
    Config,
    Output,
    Sets,
    UsageError,
    resolved,
    title,
    without_device,
    write,
)

if TYPE_CHECKING:
    from fusekit.config import Experiment
    from fusekit.graph import Graph


def command(
    config: Config,
    sets: Sets = None,
    form: Annotated[
        Literal["text", "mermaid", "svg"], typer.Option("--format", "-f", help="how to show it")
    ] = "text",
    topology: Annotated[
        str | None,
        typer.Option(metavar="CHIP:SHAPE", help="whose backends are told; default a CPU's"),
    ] = None,
    output: Output = None,
) -> None:
    """Show shapes, parameters, FLOPs, backends."""
    without_device()
    if topology is not None and form != "text":
        raise UsageError("--topology says which backends the text tells: leave --format away")
    loaded, graph = resolved(config, sets)
    from fusekit.report.summary import summarise

    summary = summarise(graph, flops=form != "mermaid", title=title(loaded, config))
    text = import_module(f"fusekit.report.{form}").render(summary)
    write(text + _backends(loaded.experiment, graph, topology) if form == "text" else text, output)


def _backends(experiment: "Experiment", graph: "Graph", topology: str | None) -> str:
    """A table of what runs each operation of the train steps of all stages."""
    from fusekit.backends import Devices, backends
    from fusekit.chosen import rows
    from fusekit.config.stages import staged
    from fusekit.graph import resolve
    from fusekit.report.columns import columns

    devices, where = Devices(), "a CPU"
    if topology is not None:
        from fusekit.plan.plan import on
        from fusekit_tpu.topology import Topology

        shape = Topology.parse(topology)
        devices, where = on(shape, experiment), str(shape)
    graphs = [resolve(stage) for stage in staged(experiment).values()] or [graph]
    found = [choice for one in graphs for choice in backends(one, devices)]
    lines = list(columns(rows(found)))
    return "\n".join(["", f"backends on {where}", *lines, ""]) if lines else ""

"""`fusekit check`: is a config possible? Needs no device and allocates no weight."""

from typing import Annotated

import typer

from fusekit.cli.options import Config, Sets, resolved, title, without_device


def command(
    config: Config,
    topology: Annotated[
        str | None,
        typer.Option(metavar="CHIP:SHAPE", help="where it is to run, as v5e:4x4 or h100:8"),
    ] = None,
    sets: Sets = None,
) -> None:
    """Check a config: words, wiring and widths."""
    without_device()
    loaded, graph = resolved(config, sets)
    from fusekit.report.summary import summarise

    if topology is not None:
        from fusekit.asked import check_kernels
        from fusekit.config.stages import staged
        from fusekit.graph import resolve
        from fusekit.plan.plan import on
        from fusekit_tpu.topology import Topology

        graphs = map(resolve, staged(loaded.experiment).values() or [loaded.experiment])
        check_kernels(graphs, loaded.locate, [on(Topology.parse(topology), loaded.experiment)])
    summary = summarise(graph, title=title(loaded, config))
    typer.echo(f"OK {summary.title}: {summary.counts()}")

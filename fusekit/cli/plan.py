"""`fusekit plan`: does an experiment fit a topology, and what does a step cost there?"""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from fusekit.cli.options import Config, Quiet, Sets, UsageError, resolved, without_device

if TYPE_CHECKING:
    from fusekit.config import Experiment


def command(
    config: Config,
    topology: Annotated[
        str, typer.Option(metavar="CHIP:SHAPE", help="as v5e:16x16, or h200:8x4 for 4 machines")
    ],
    slices: Annotated[int, typer.Option(metavar="N", help="how many of that shape")] = 1,
    stage: Annotated[str | None, typer.Option(help="of stages; default the last")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="compile unrolled programs whole, however long")
    ] = False,
    brief: Annotated[
        bool, typer.Option("--brief", help="leave out the other way of running layers")
    ] = False,
    search: Annotated[
        bool, typer.Option("--search", help="try meshes, remat and microbatches, and say which")
    ] = False,
    compare: Annotated[
        str | None, typer.Option(metavar="CONFIG", help="plan this one too, side by side")
    ] = None,
    sets: Sets = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    quiet: Quiet = False,
) -> None:
    """Plan a train step for chips that are not here. Everything it says is estimated."""
    without_device()
    from fusekit.plan import Cache, Topology, planned, render, render_search, searched
    from fusekit.train.files import tame

    shape = Topology.parse(topology, slices=slices)
    cache = Cache()

    def say(text: str) -> None:
        if not quiet:
            typer.echo(text, err=True)

    for one in [config, *([compare] if compare else [])]:
        experiment = _stage(one, sets, stage)
        if search:
            found = searched(experiment, shape, say=say, cache=cache)
            if as_json:
                typer.echo(json.dumps(tame(found.plain()), indent=1, allow_nan=False))
            else:
                typer.echo(render_search(found), nl=False)
            continue
        train = experiment.train
        for task in train.tasks if train.turns == "alternate" and train.tasks else (None,):
            given = {"task": task, "exact": exact, "both": not brief}
            plan = planned(experiment, shape, **given, say=say, cache=cache)
            if as_json:
                typer.echo(json.dumps(tame(plan.plain()), indent=1, allow_nan=False))
            else:
                typer.echo(f"{one}{f', task {task}' if task else ''}\n{render(plan)}")


def _stage(config: str, sets: list[str] | None, name: str | None) -> "Experiment":
    """The stage of a config that is planned. Raises `UsageError` if there is none of the name."""
    loaded, _ = resolved(config, sets)
    from fusekit.config.stages import staged
    from fusekit.errors import nearest

    stages = staged(loaded.experiment)
    if name is not None and name not in stages:
        close = nearest(name, stages) or tuple(stages)
        raise UsageError(f"no stage is called {name}: {', '.join(close) or 'there are none'}")
    if not stages:
        return loaded.experiment
    return stages[name or list(stages)[-1]]

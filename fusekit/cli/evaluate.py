"""`fusekit evaluate`: losses and metrics of a run on a split."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fusekit.cli.opened import batches, open_run
from fusekit.cli.options import (
    Coordinator,
    Output,
    Process,
    Processes,
    Quiet,
    Replica,
    Sets,
    Which,
    print_metrics,
    write,
)


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run")],
    split: Annotated[str, typer.Option(help="train, validation or test")] = "test",
    sets: Sets = None,
    replica: Replica = 0,
    which: Which = "best",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    output: Output = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run on a split."""
    from fusekit.hosts.join import joined

    with joined(coordinator, processes, process):
        opened = open_run(run, sets, replica=replica, which=which)
        from fusekit.train.evaluate import evaluate
        from fusekit.train.files import tame
        from fusekit.train.progress import counted
        from fusekit.train.run import first_host

        first, experiment, layout = first_host(), opened.experiment, opened.program.layout
        with batches(experiment.data, experiment.readable, experiment, split, layout) as pipeline:
            shown = counted(pipeline, "evaluating", show=not quiet)
            values = evaluate(opened.program, opened.state, shown)
    if not first:
        return
    found = {"run": str(run), "step": opened.step, "split": split, "values": tame(values)}
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if output is not None:
        write(text, output)
    if as_json:
        typer.echo(text, nl=False)
    else:
        which = f", replica {replica} of {opened.replicas}" if opened.replicas > 1 else ""
        print_metrics(f"{split}, step {opened.step}{which}", values)

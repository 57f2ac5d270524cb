"""`fusekit predict`: what every head answers, row by row. Needs no labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusekit.cli.opened import Opened, batches, open_config, open_run
from fusekit.cli.options import Quiet, Replica, Sets, UsageError, Which

if TYPE_CHECKING:
    from fusekit.component import ModalitySpec, SourceSpec

FORMATS = (".parquet", ".jsonl")
Target = Annotated[str, typer.Argument(metavar="RUN|CONFIG", help="of a run, or untrained")]
File = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help=".parquet or .jsonl")]
Index = Annotated[
    Path | None,
    typer.Option("--input", "-i", metavar="INDEX", help="rows: .csv, .jsonl or .parquet"),
]
Files = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="of INDEX, holding paths; default as the source says"),
]

Ids = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="of INDEX, naming its rows; default as the source says"),
]


def command(
    target: Target,
    output: File,
    index: Index = None,
    split: Annotated[
        str | None, typer.Option(help="of the declared data, in place of --input")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="whose columns, transforms and scales INDEX follows")
    ] = None,
    files: Files = None,
    ids: Ids = None,
    sets: Sets = None,
    replica: Replica = 0,
    which: Which = "best",
    quiet: Quiet = False,
) -> None:
    """Predict for rows of a file or of a split."""
    if (index is None) == (split is None):
        raise UsageError("give one of --input and --split")
    if index is None and (files or ids or source):
        raise UsageError("--source, --files and --ids tell how --input is read: there is none")
    if output.suffix not in FORMATS:
        raise UsageError(f"{output}: predictions are written as {' or '.join(FORMATS)}")
    folder = Path(target)
    if folder.is_dir():
        opened = open_run(folder, sets, replica=replica, which=which)
    else:
        typer.echo(f"{target} is no folder of a run: its parameters are untrained", err=True)
        opened = open_config(target, sets)
    sources: dict[str, SourceSpec] = dict(opened.experiment.data)
    if index is not None:
        from fusekit.cli.index import follow

        made = follow(index, sources, source, files, ids, _needed(opened))
        sources, split = {"input": made}, "test"
    rows = list(_rows(opened, sources, str(split), quiet))
    from fusekit.cli.table import save

    save(rows, output)
    typer.echo(f"wrote {len(rows)} rows to {output}")


def _needed(opened: Opened) -> "dict[str, ModalitySpec]":
    """The modalities that the answers depend on: no others are read."""
    from fusekit.graph.link import answering

    graph, program = opened.program.graph, opened.program
    keys = [read.key for name in answering(graph) for read in graph.outputs_of(name)]
    return {n: opened.experiment.modalities[n] for n in program.model.entries(keys)}


def _rows(opened: Opened, sources: "dict[str, SourceSpec]", split: str, quiet: bool) -> Any:
    """One dict a row."""
    from fusekit.cli.answers import answers
    from fusekit.train.progress import counted

    graph, program = opened.program.graph, opened.program
    with batches(sources, _needed(opened), opened.experiment, split) as pipeline:
        for batch in counted(pipeline, "predicting", show=not quiet):
            found = program.predict(opened.state, batch.streams)
            yield from answers(graph, found, batch)

"""`fusekit predict`: what every head answers, row by row. Needs no labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusekit.cli.opened import Opened, batches, open_config, open_run
from fusekit.cli.options import Replica, Sets, UsageError, Which

if TYPE_CHECKING:
    from fusekit.component import SourceSpec

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
    sets: Sets = None,
    replica: Replica = 0,
    which: Which = "best",
) -> None:
    """Predict for rows of a file or of a split."""
    if (index is None) == (split is None):
        raise UsageError("give one of --input and --split")
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

        sources = {"input": follow(index, sources, source, files)}
        split = "test"
    rows = list(_rows(opened, sources, str(split)))
    from fusekit.cli.table import save

    save(rows, output)
    typer.echo(f"wrote {len(rows)} rows to {output}")


def _rows(opened: Opened, sources: "dict[str, SourceSpec]", split: str) -> Any:
    """One dict a row. Only the modalities that the heads depend on are read."""
    from fusekit.cli.answers import answers
    from fusekit.graph.link import answering

    graph, program = opened.program.graph, opened.program
    keys = [read.key for name in answering(graph) for read in graph.outputs_of(name)]
    needed = {n: opened.experiment.modalities[n] for n in program.model.entries(keys)}
    with batches(sources, needed, opened.experiment, split) as pipeline:
        for batch in pipeline:
            found = program.predict(opened.state, batch.streams)
            yield from answers(graph, found, batch)

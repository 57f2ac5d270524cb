"""`fusekit zoo`: the published systems that come as configs, and whether they work."""

import json
from typing import Annotated

import typer

from fusekit.cli.options import UsageError


def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SYSTEM]...", help="only these")
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="train and judge each anew; a minute a system")
    ] = False,
    record: Annotated[
        bool, typer.Option("--record", help="with --run: write down what was found")
    ] = False,
) -> None:
    """List published systems, and what was measured of each."""
    from fusekit.config.compose import shipped
    from fusekit.errors import nearest
    from fusekit.study.zoo import MEASURED, examine, systems

    known = {system.id: system for system in systems()}
    for name in names or ():
        if name not in known:
            close = nearest(name, known) or tuple(known)
            raise UsageError(f"no system is called {name}: {', '.join(close)}")
    chosen = [known[name] for name in names or known]
    found = {system.id: system.measured for system in chosen}
    for system in chosen if run else ():
        examined = examine(system.path, say=lambda text: typer.echo(f"  {text}", err=True))
        faults = examined.faults()
        typer.echo(f"{system.id}: {'; '.join(faults) or 'works'} ({examined.seconds:.0f} s)")
        found[system.id] = examined.record()
    if run and record:
        path = shipped() / "zoo" / MEASURED
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        text = json.dumps({**before, **found}, indent=1, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")
    rows = [("system", "works", "score", "constant", "shuffled", "paper sizes", "paper")]
    rows += [
        (s.id, *_cells(found[s.id]), "yes" if s.paper_sizes else "no", s.paper) for s in chosen
    ]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _cells(measured: dict[str, object] | None) -> tuple[str, str, str, str]:
    """Whether it works, its score, that of a constant answer and that on shuffled targets."""
    if measured is None:
        return "not measured", "", "", ""
    works, constant = "yes" if measured["works"] else "no", measured["constant"]
    score = f"{measured['metric']} {measured['score']}"
    return works, score, "" if constant is None else str(constant), str(measured["control"])

"""`fusekit list`: the components there are, plug-ins included."""

import json
from typing import Annotated

import typer

from fusekit.cli.options import UsageError, without_device

Slot = Annotated[
    str | None, typer.Argument(metavar="[SLOT]", help="such as encoder; default all slots")
]


def command(
    slot: Slot = None, as_json: Annotated[bool, typer.Option("--json", help="as JSON")] = False
) -> None:
    """List components and what they are."""
    without_device()
    from fusekit.config.registry import SLOTS, components
    from fusekit.errors import nearest
    from fusekit.report.reference import first_line

    if slot is not None and slot not in SLOTS:
        close = nearest(slot, SLOTS)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"there is no slot {slot}{hint}\n    expected: one of {', '.join(SLOTS)}")
    found = {
        one: {name: first_line(spec) for name, spec in components(one).items()}
        for one in ((slot,) if slot else SLOTS)
    }
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    width = max((len(name) for known in found.values() for name in known), default=0)
    for number, (one, known) in enumerate(found.items()):
        typer.echo(f"{'' if number == 0 else chr(10)}{one} ({len(known)})")
        for name, line in known.items():
            typer.echo(f"  {name.ljust(width)}  {line}")

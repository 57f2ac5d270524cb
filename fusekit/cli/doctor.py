"""`fusekit doctor`: what this installation and this machine have."""

import sys
from importlib.metadata import PackageNotFoundError, entry_points, requires, version

import typer


def command() -> None:
    """Tell devices, versions and plug-ins."""
    typer.echo(f"python {sys.version.split()[0]} on {sys.platform}")
    typer.echo("\npackages")
    faults = 0
    for name, extra in _requirements():
        try:
            found, note = version(name), ""
        except PackageNotFoundError:
            found, note = "missing", f"  (extra: {extra})" if extra else "  (required)"
            faults += not extra
        typer.echo(f"  {name.ljust(24)} {found}{note}")
    typer.echo("\nplug-ins")
    for point in sorted(entry_points(group="fusekit.components"), key=lambda p: p.name):
        line, good = _plugin(point)
        faults += not good
        typer.echo(f"  {point.name.ljust(24)} {point.value}: {line}")
    typer.echo("\ndevices")
    faults += not _devices()
    if faults:
        typer.echo(f"\n{faults} fault{'s' if faults != 1 else ''} found", err=True)
        raise typer.Exit(2)


def _requirements() -> list[tuple[str, str]]:
    """(package, extras) that this distribution names; no extra where it is required."""
    import re

    found: dict[str, list[str]] = {"fusekit": [""]}
    try:
        lines = requires("fusekit") or []
    except PackageNotFoundError:
        lines = []
    for line in lines:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
        if name:
            found.setdefault(name.group(), []).append(extra.group(1) if extra else "")
    return [(name, ", ".join(extras) if all(extras) else "") for name, extras in found.items()]


def _plugin(point: object) -> tuple[str, bool]:
    """What a plug-in registers, or why it cannot be loaded: the point of asking a doctor."""
    from fusekit.config.registry import CONTRACT, SLOTS, _registered

    before = {slot: len(_registered[slot]) for slot in SLOTS}
    try:
        package = point.load()  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:
        return f"cannot be imported: {type(error).__name__}: {error}", False
    contract = getattr(package, "FUSEKIT_CONTRACT", CONTRACT)
    if contract != CONTRACT:
        return f"is written for plug-in contract {contract}; this is {CONTRACT}", False
    count = sum(len(_registered[slot]) - before[slot] for slot in SLOTS)
    return f"{count} components, contract {contract}", True


def _devices() -> bool:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        typer.echo(f"  none: {str(error).splitlines()[0]}")
        return False
    for device in devices:
        typer.echo(f"  {device.platform} {device.id}: {device.device_kind}")
    return True

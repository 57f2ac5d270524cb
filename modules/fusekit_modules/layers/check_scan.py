"""What a stack may ask of layers that scan, told before anything is built."""

from collections.abc import Sequence

from fusekit.errors import WiringError
from fusekit.stream import Signature
from fusekit_modules.layers.attend import Attend
from fusekit_modules.layers.scan import ScanSettings


def check_scan(
    settings: ScanSettings,
    mixers: Sequence[str],
    start: Signature,
    *,
    heads: int,
    rotary: bool,
    readouts: int,
) -> None:
    """Raises `WiringError` for settings that no layer obeys, or that do not fit one another."""
    scans, attends = set(mixers) - {"attention"}, "attention" in mixers
    if not scans and settings != ScanSettings():
        raise WiringError(
            "no layer scans, so `scan` says nothing",
            found=f"mixer: {', '.join(mixers)}",
            expected="a mixer such as ssd or selective",
            field=("scan",),
        )
    if not scans:
        return
    for name, mixer in (("groups", "ssd"), ("rank", "selective")):
        if mixer not in scans and getattr(settings, name) != getattr(ScanSettings(), name):
            raise WiringError(
                f"no layer obeys `{name}`, a setting of {mixer}",
                found=f"mixer: {', '.join(mixers)}",
                expected=f"{mixer} among the mixers, or no {name}",
                field=("scan", name),
            )
    if (heads * settings.expand) % settings.groups:
        raise WiringError(
            "the groups do not divide the heads of the scan",
            found=f"{settings.groups} groups, {heads * settings.expand} heads",
            expected=f"a divisor of {heads * settings.expand}",
            field=("scan", "groups"),
        )
    if rotary and not attends:
        raise WiringError(
            "rotary positions turn queries and keys, which no layer has",
            found=f"mixer: {', '.join(mixers)}",
            expected="learned, sinusoidal or keep: a scan knows the order",
            field=("positions",),
        )
    if readouts and not attends and settings.resets in ("label", "item") and _parted(start):
        raise WiringError(
            f"readout tokens would read one {settings.resets} alone, as states begin anew at each",
            found=start,
            expected="a layer of attention among the mixers, or no readout",
            field=("readout",),
        )


def _parted(stream: Signature) -> bool:
    data = [span for span in stream.spans if not span.readout]
    return len(data) > 1 or any(span.items > 1 for span in data)


def check_scanned(settings: ScanSettings, attend: Attend | None, stream: Signature) -> None:
    """Raises `WiringError` for an `attend` that a layer that scans cannot obey, and for several
    items of which it is not said whether states begin anew at each."""
    if attend not in (None, "all", "item"):
        raise WiringError(
            "`attend` says who reads whom, which a layer that scans cannot choose",
            found=attend,
            expected="all or item, or `causal: true`; and scan.resets",
            field=("attend",),
        )
    if attend == "item" and settings.resets != "item":
        raise WiringError(
            "items do not see one another, but scans go on from item to item",
            found=f"attend: item, scan.resets: {settings.resets or 'segment'}",
            expected="scan: {resets: item}",
            field=("scan", "resets") if settings.resets else ("attend",),
        )
    if attend == "all" and settings.resets not in (None, "segment"):
        raise WiringError(
            f"all tokens see one another, but scans begin anew at each {settings.resets}",
            found=f"attend: all, scan.resets: {settings.resets}",
            expected="scan: {resets: segment}",
            field=("scan", "resets"),
        )
    items = [span.label for span in stream.spans if span.items > 1]
    if items and settings.resets is None and attend is None:
        raise WiringError(
            f"it is not said whether a scan goes on from item to item of {items[0]}",
            found=stream,
            expected="scan: {resets: item}, or segment",
            field=("scan",),
        )

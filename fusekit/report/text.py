"""A summary as a tree of text."""

from collections.abc import Iterable

from fusekit.report import numbers
from fusekit.report.summary import Edge, Entry, Summary

SECTIONS = ("modalities", "encoders", "fusion", "heads", "parts", "losses", "metrics", "data")


def render(summary: Summary) -> str:
    """The tree: each section, each entry, and beneath it what it reads and where operators act."""
    lines = [f"{summary.title}: {summary.counts()}{_flops(summary.flops, ', ')}"]
    rows = {entry.key: _row(entry) for entry in summary.entries}
    widths = [max((len(row[i]) for row in rows.values()), default=0) for i in range(5)]
    for section in SECTIONS:
        entries = summary.section(section)
        if entries:
            lines += ["", section]
        for number, entry in enumerate(entries):
            last = number == len(entries) - 1
            cells = rows[entry.key]
            text = [cells[0].ljust(widths[0]), cells[1].ljust(widths[1]), cells[2].ljust(widths[2])]
            text += [cells[3].rjust(widths[3]), cells[4].rjust(widths[4]), cells[5]]
            lines.append(f"{'└─' if last else '├─'} {'  '.join(text)}".rstrip())
            below = list(details(entry))
            for place, detail in enumerate(below):
                bar = "   " if last else "│  "
                lines.append(f"{bar}{'└' if place == len(below) - 1 else '├'} {detail}")
    if summary.training:
        lines += ["", f"train  {summary.training}"]
    return "\n".join(lines) + "\n"


def _flops(count: int | None, before: str = "") -> str:
    return "" if count is None else f"{before}{numbers.short(count)} FLOP a sample"


def _row(entry: Entry) -> tuple[str, str, str, str, str, str]:
    """Name, type, what it gives, parameters, FLOPs, remarks."""
    kind = entry.type
    if entry.layers:
        kind += f", {entry.layers}"
    elif entry.depth:
        kind += f", {numbers.plural(entry.depth, 'place')}"
    own = [text for port, text in entry.gives if not port]
    count = entry.count
    parameters = f"{numbers.short(count.parameters)} par" if count.parameters else ""
    flops = f"{numbers.short(entry.flops)} FLOP" if entry.flops else ""
    remarks = [entry.state, entry.note]
    if entry.state == "partly frozen":
        remarks[0] += f" ({numbers.short(count.trainable)} trainable)"
    if count.statistics:
        remarks.append(f"{numbers.short(count.statistics)} statistics")
    return entry.name, kind, " ".join(own), parameters, flops, ", ".join(r for r in remarks if r)


def details(entry: Entry) -> Iterable[str]:
    """What an entry reads, where operators act, and its other ports."""
    if entry.reads:
        yield "reads " + ", ".join(dict.fromkeys(_read(edge) for edge in entry.reads))
    for touch in entry.touches:
        if entry.section == "encoders":
            yield f"edited by {touch.operator} at {numbers.layers(touch.layers)}"
        else:
            yield f"edits {touch.stack} at {numbers.layers(touch.layers)}"
    for port, text in entry.gives:
        if port and not any(port == touch.stack for touch in entry.touches):
            yield f".{port} {text}"


def _read(edge: Edge) -> str:
    """A reference, and its role where that tells something."""
    told = edge.role in (edge.text, "input", "of") or not edge.role.isidentifier()
    return edge.text if told else f"{edge.text} as {edge.role}"

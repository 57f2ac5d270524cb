"""A summary as a Mermaid flowchart, which many viewers of Markdown draw."""

import re

from fusekit.report import numbers
from fusekit.report.summary import Edge, Entry, Summary

SECTIONS = ("modalities", "encoders", "fusion", "heads", "parts", "losses")
_SHAPES = {
    "modalities": ("([", "])"),
    "encoders": ("[", "]"),
    "fusion": ("{{", "}}"),
    "heads": ("[/", "/]"),
    "parts": ("[[", "]]"),
    "losses": ("((", "))"),
}


def render(summary: Summary) -> str:
    """The flowchart. Edits of operators are double arrows, frozen nodes are grey and dashed."""
    shown = {e.key: f"n{n}" for n, e in enumerate(summary.entries) if e.section in SECTIONS}
    lines = ["flowchart LR"]
    for section in SECTIONS:
        entries = summary.section(section)
        if not entries:
            continue
        lines.append(f"  subgraph {section}")
        for entry in entries:
            before, after = _SHAPES[section]
            lines.append(f'    {shown[entry.key]}{before}"{_label(entry)}"{after}')
        lines.append("  end")
    for entry in summary.entries:
        if entry.key not in shown:
            continue
        for edge in entry.reads:
            text = _edge(edge)
            arrow = f'-->|"{_safe(text)}"|' if text else "-->"
            line = f"  {shown[edge.source]} {arrow} {shown[entry.key]}"
            if line not in lines:
                lines.append(line)
        if entry.section == "fusion":
            for touch in entry.touches:
                where = _safe(f"@{numbers.layers(touch.layers)}")
                lines.append(f'  {shown[touch.stack]} <-->|"{where}"| {shown[entry.key]}')
    frozen = [shown[e.key] for e in summary.entries if e.key in shown and e.state == "frozen"]
    if frozen:
        lines.append("  classDef frozen fill:#e5e7eb,stroke:#6b7280,stroke-dasharray:4 3")
        lines.append(f"  class {','.join(frozen)} frozen")
    return "\n".join(lines) + "\n"


def _label(entry: Entry) -> str:
    lines = [f"<b>{_safe(entry.name)}</b>", _safe(entry.type)]
    if entry.layers:
        lines[-1] += f", {entry.layers}"
    lines += [_safe(text) for port, text in entry.gives if not port]
    if entry.count.parameters:
        lines.append(f"{numbers.short(entry.count.parameters)} parameters")
    return "<br/>".join(lines)


def _edge(edge: Edge) -> str:
    """What of the source is read: layers and ports."""
    point = f"@{numbers.layers(edge.layers)}" if edge.layers else ""
    return point + "".join(f".{port}" for port in edge.ports)


def _safe(text: str) -> str:
    """Text inside quotes; Mermaid writes other characters as `#code;`."""
    return re.sub(r'["#<>&|`\\]', lambda match: f"#{ord(match.group())};", text)

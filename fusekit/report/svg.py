"""A summary as an SVG picture: columns from modalities to losses, made by hand.

Stacks carry a strip with one cell a layer; cells at which an operator acts have its colour. What
training does not change is shaded and dashed.
"""

from dataclasses import dataclass
from html import escape
from itertools import pairwise

from fusekit.report import numbers
from fusekit.report.layered_layout import Drawing, Link, place
from fusekit.report.ranks import SECTIONS, columns
from fusekit.report.summary import Edge, Entry, Summary
from fusekit.report.text import details

WIDTH, BETWEEN, MARGIN, HEAD = 208, 112, 28, 92
LINE, PAD, STRIP = 16, 10, 12
TINT = {
    "modalities": "#0f766e",
    "encoders": "#1d4ed8",
    "fusion": "#b45309",
    "heads": "#7e22ce",
    "losses": "#be123c",
}
COLOURS = ("#ea580c", "#0891b2", "#65a30d", "#c026d3", "#ca8a04", "#475569")
PLAIN = "#b6ccf5"
"""A layer at which no operator acts."""
_STYLE = """svg.fusekit text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif}
svg.fusekit .n{font-size:13px;font-weight:600;fill:#111827}
svg.fusekit .s{font-size:11px;fill:#4b5563}
svg.fusekit .e{font-size:10px;fill:#374151;paint-order:stroke;stroke:#fff;stroke-width:3px}
svg.fusekit .h{font-size:11px;font-weight:600;fill:#6b7280;letter-spacing:.05em}
svg.fusekit .t{font-size:17px;font-weight:600;fill:#111827}"""


@dataclass
class _Page:
    summary: Summary
    drawing: Drawing
    entries: dict[str, Entry]
    colour: dict[str, str]
    parts: list[str]
    labels: list[str]


def render(summary: Summary) -> str:
    """The picture, as the text of an SVG file."""
    entries = {e.key: e for e in summary.entries if e.section in SECTIONS}
    ranks = columns(summary)
    links = _links(entries, ranks)
    heights = {key: _height(entry, links) for key, entry in entries.items()}
    operators = [e.key for e in entries.values() if e.section == "fusion" and e.touches]
    colour = {key: COLOURS[n % len(COLOURS)] for n, key in enumerate(operators)}
    page = _Page(summary, place(ranks, heights, links), entries, colour, [], [])
    for link in links:
        _line(page, link)
    page.parts += page.labels
    for key, entry in entries.items():
        _box(page, entry, _left(page, key), page.drawing.top[key] + HEAD, heights[key])
    return _whole(page)


def _links(entries: dict[str, Entry], ranks: dict[str, int]) -> list[Link]:
    links: dict[Link, None] = {}
    for entry in entries.values():
        for edge in entry.reads:
            if edge.source in entries:
                links[Link(edge.source, entry.key, "read", _what(edge))] = None
        for touch in entry.touches if entry.section == "fusion" else ():
            where = f"@{numbers.layers(touch.layers)}"
            links[Link(touch.stack, entry.key, "edit", where)] = None
    return [link for link in links if link.source != link.target]


def _what(edge: Edge) -> str:
    point = f"@{numbers.layers(edge.layers)}" if edge.layers else ""
    return point + "".join(f".{port}" for port in edge.ports)


def _height(entry: Entry, links: list[Link]) -> float:
    rows = 2 + bool(_numbers(entry)) + bool(entry.state)
    own = 2 * PAD + rows * LINE + (STRIP + 6 if _strip(entry) else 0) - 4
    out = sum(link.source == entry.key for link in links)
    into = sum(link.target == entry.key for link in links)
    return max(own, 17.0 * (max(out, into) + 1))


def _strip(entry: Entry) -> bool:
    return entry.section == "encoders" and entry.depth > 0


def _numbers(entry: Entry) -> str:
    words = []
    if entry.count.parameters:
        words.append(f"{numbers.short(entry.count.parameters)} par")
    if entry.flops:
        words.append(f"{numbers.short(entry.flops)} FLOP")
    return ", ".join(words)


def _left(page: _Page, key: str) -> float:
    return MARGIN + page.drawing.column_of[key] * (WIDTH + BETWEEN)


def _cut(text: str, room: float, size: float = 11) -> str:
    """Text that fits into so many pixels, by the mean width of letters."""
    most = int(room / (size * 0.56))
    return text if len(text) <= most else text[: max(most - 1, 1)] + "…"


def _text(x: float, y: float, kind: str, words: str, anchor: str = "start") -> str:
    end = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{end}>{escape(words)}</text>'


def _box(page: _Page, entry: Entry, x: float, y: float, height: float) -> None:
    tint = page.colour.get(entry.key, TINT[entry.section])
    fill, dash = ("#e5e7eb", ' stroke-dasharray="5 3"') if entry.state else ("#ffffff", "")
    if entry.state == "partly frozen":
        fill = "#f3f4f6"
    tip = "\n".join([f"{entry.name} ({entry.type})", *details(entry)])
    page.parts.append(
        f"<g><title>{escape(tip)}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{WIDTH}" height="{height:.1f}" rx="6" '
        f'fill="{fill}" stroke="{tint}"{dash}/>'
        f'<rect x="{x:.1f}" y="{y + 6:.1f}" width="4" height="{height - 12:.1f}" fill="{tint}"/>'
    )
    left, room = x + 14, WIDTH - 26
    at = y + PAD + 10
    name = _cut(entry.name, room, 13)
    page.parts.append(_text(left, at, "n", name))
    spare = room - len(name) * 13 * 0.6
    if spare > 40:
        page.parts.append(_text(x + WIDTH - 10, at, "s", _cut(entry.type, spare), "end"))
    gives = next((text for port, text in entry.gives if not port), "") or entry.note
    lines = [gives or (f"edits {numbers.plural(entry.depth, 'place')}" if entry.touches else "")]
    if entry.section == "losses":
        lines = [entry.note or "weight 1"]
    lines += [_numbers(entry), entry.state]
    for line in lines:
        if line:
            at += LINE
            page.parts.append(_text(left, at, "s", _cut(line, room)))
    if _strip(entry):
        _cells(page, entry, left, at + 8, room)
    page.parts.append("</g>")


def _cells(page: _Page, entry: Entry, x: float, y: float, room: float) -> None:
    """One cell a layer, coloured by the operators that act there."""
    word = f"{entry.depth} layers" if entry.depth > 1 else "1 layer"
    wide = min(14.0, (room - 58) / entry.depth)
    acting: dict[int, list[str]] = {}
    for touch in entry.touches:
        for layer in touch.layers:
            acting.setdefault(layer, []).append(page.colour.get(touch.operator, "#9ca3af"))
    gap = 1.0 if wide > 3 else 0.0
    for layer in range(entry.depth):
        colours = acting.get(layer, [PLAIN])
        tall = STRIP / len(colours)
        for part, colour in enumerate(colours):
            page.parts.append(
                f'<rect x="{x + layer * wide:.2f}" y="{y + part * tall:.2f}" '
                f'width="{wide - gap:.2f}" height="{tall:.2f}" fill="{colour}"/>'
            )
    page.parts.append(_text(x + entry.depth * wide + 6, y + STRIP - 2, "s", word))


def _line(page: _Page, link: Link) -> None:
    """A curve that leaves and arrives level, and passes the columns between in its lane."""
    ends = [y + HEAD for y in page.drawing.ends[link]]
    x = _left(page, link.source) + WIDTH
    path = f"M{x:.1f} {ends[0]:.1f}"
    step, arrive = WIDTH + BETWEEN, _left(page, link.target) - 7
    edit = link.kind == "edit"
    if arrive < x:
        path += f" C{x + 60:.1f} {ends[0]:.1f} {arrive - 60:.1f} {ends[-1]:.1f}"
        path += f" {arrive:.1f} {ends[-1]:.1f}"
    else:
        x += 7 if edit else 0
        path = f"M{x:.1f} {ends[0]:.1f}"
        for number, (y, then) in enumerate(pairwise(ends)):
            right = _left(page, link.source) + (number + 1) * step
            stop = arrive if number == len(ends) - 2 else right
            half = (stop - x) / 2
            path += f" C{x + half:.1f} {y:.1f} {stop - half:.1f} {then:.1f} {stop:.1f} {then:.1f}"
            x = stop
            if number < len(ends) - 2:
                x = right + WIDTH
                path += f" H{x:.1f}"
    colour = page.colour.get(link.target, "#64748b") if edit else "#94a3b8"
    if page.entries[link.target].section == "losses":
        colour = "#cbd5e1"
    marker = f"a{colour[1:]}"
    start = f' marker-start="url(#{marker})"' if edit else ""
    page.parts.append(
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{2.4 if edit else 1.5}" '
        f'marker-end="url(#{marker})"{start}/>'
    )
    if link.text:
        words = _cut(link.text, BETWEEN - 16, 10)
        page.labels.append(_text(_left(page, link.source) + WIDTH + 14, ends[0] - 5, "e", words))


def _whole(page: _Page) -> str:
    drawing = page.drawing
    width = 2 * MARGIN + len(drawing.columns) * (WIDTH + BETWEEN) - BETWEEN
    width = max(width, 560)
    height = HEAD + drawing.height + MARGIN
    head = [
        _text(MARGIN, 34, "t", page.summary.title),
        _text(MARGIN, 54, "s", page.summary.counts() + _flops(page.summary)),
    ]
    for number, names in enumerate(drawing.columns):
        kinds = dict.fromkeys(page.entries[name].section for name in names)
        x = MARGIN + number * (WIDTH + BETWEEN)
        head.append(_text(x, HEAD - 12, "h", ", ".join(kinds).upper()))
    used = ["#64748b", "#94a3b8", "#cbd5e1", *COLOURS]
    markers = "".join(
        f'<marker id="a{c[1:]}" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="7" '
        f'markerHeight="7" markerUnits="userSpaceOnUse" orient="auto-start-reverse">'
        f'<path d="M0 0L8 4L0 8z" fill="{c}"/></marker>'
        for c in used
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" class="fusekit" '
            f'style="max-width:100%;height:auto">',
            f"<title>{escape(page.summary.title)}</title><style>{_STYLE}</style>",
            f"<defs>{markers}</defs>",
            f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
            *head,
            *page.parts,
            "</svg>",
            "",
        ]
    )


def _flops(summary: Summary) -> str:
    return "" if summary.flops is None else f", {numbers.short(summary.flops)} FLOP a sample"

"""A summary as an SVG picture: columns from modalities to losses, made by hand.

Stacks carry a strip with one cell a layer; cells at which an operator acts have its colour. What
training does not change is shaded and dashed.
"""

from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from fusekit.report import numbers
from fusekit.report.layered_layout import Drawing, Link, place
from fusekit.report.ranks import SECTIONS, columns
from fusekit.report.summary import Edge, Entry, Summary
from fusekit.report.text import details

NARROW, WIDE = 104.0, 240.0
"""Widths of a column: as its boxes need, within these."""
MARGIN, HEAD, BEND = 20, 92, 42
"""Around the page, above the boxes, and what a line has to bend in between columns."""
LINE, PAD, STRIP, CELL = 16, 10, 12, 14.0
LABEL = 96.0
"""The longest label of a line."""
NAME, SMALL, TINY = 13 * 0.68, 11 * 0.55, 10 * 0.57
"""Mean widths of a letter, by class of text."""
TINT = {
    "modalities": "#0f766e",
    "encoders": "#1d4ed8",
    "fusion": "#b45309",
    "heads": "#7e22ce",
    "parts": "#4d7c0f",
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
    columns: list["_Column"]
    parts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def column(self, key: str) -> "_Column":
        return self.columns[self.drawing.column_of[key]]


@dataclass(frozen=True)
class _Column:
    """Where a column of boxes stands.

    Args:
      left, width: of its boxes.
      lead: how far lines run level behind it, beneath their labels, before they bend.
    """

    left: float
    width: float
    lead: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def end(self) -> float:
        """Where the next one begins."""
        return self.right + self.lead + BEND


def render(summary: Summary) -> str:
    """The picture, as the text of an SVG file."""
    entries = {e.key: e for e in summary.entries if e.section in SECTIONS}
    ranks = columns(summary)
    links = _links(entries, ranks)
    heights = {key: _height(entry, links) for key, entry in entries.items()}
    operators = [e.key for e in entries.values() if e.section == "fusion" and e.touches]
    colour = {key: COLOURS[n % len(COLOURS)] for n, key in enumerate(operators)}
    drawing = place(ranks, heights, links)
    page = _Page(summary, drawing, entries, colour, _columns(drawing, entries, links))
    for link in links:
        _line(page, link)
    page.parts += page.labels
    for key, entry in entries.items():
        _box(page, entry, page.drawing.top[key] + HEAD, heights[key])
    return _whole(page)


def _columns(drawing: Drawing, entries: dict[str, Entry], links: list[Link]) -> list[_Column]:
    """Columns as narrow as what is in them; the gaps behind as wide as their labels."""
    found: list[_Column] = []
    left = float(MARGIN)
    for number, names in enumerate(drawing.columns):
        needs = [_need(entries[name]) for name in names]
        needs.append(len(_heading(names, entries)) * SMALL * 1.3)
        labels = [
            min(len(link.text) * TINY, LABEL) + 16
            for link in links
            if link.text and drawing.column_of[link.source] == number
        ]
        width = min(max([NARROW, *needs]), WIDE)
        found.append(_Column(left, width, max(labels, default=0.0)))
        left = found[-1].end
    return found


def _heading(names: list[str], entries: dict[str, Entry]) -> str:
    return ", ".join(dict.fromkeys(entries[name].section for name in names)).upper()


def _need(entry: Entry) -> float:
    """The width of a box with nothing cut."""
    first = len(entry.name) * NAME + 12 + len(entry.type) * SMALL
    rows = [first, *(len(line) * SMALL for line in _lines(entry))]
    if entry.layers:
        rows.append(_strip(entry) * (entry.depth * CELL + 6) + len(entry.layers) * SMALL)
    return max(rows) + 24


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
    rows = 1 + len(_lines(entry))
    own = 2 * PAD + rows * LINE + (STRIP + 6 if entry.layers else 0) - 4
    out = sum(link.source == entry.key for link in links)
    into = sum(link.target == entry.key for link in links)
    return max(own, 17.0 * (max(out, into) + 1))


def _strip(entry: Entry) -> bool:
    return entry.section == "encoders" and entry.depth > 0


def _lines(entry: Entry) -> list[str]:
    """What a box says below its name."""
    gives = next((text for port, text in entry.gives if not port), "") or entry.note
    if entry.section == "losses":
        first = entry.note or "weight 1"
    elif entry.section == "fusion" and entry.touches:
        first = gives or f"edits {numbers.plural(entry.depth, 'place')}"
    else:
        first = gives
    return [line for line in (first, _numbers(entry), entry.state) if line]


def _numbers(entry: Entry) -> str:
    words = []
    if entry.count.parameters:
        words.append(f"{numbers.short(entry.count.parameters)} par")
    if entry.flops:
        words.append(f"{numbers.short(entry.flops)} FLOP")
    return ", ".join(words)


def _cut(text: str, room: float, letter: float = SMALL) -> str:
    """Text that fits into so many pixels, by the mean width of letters."""
    most = int(room / letter + 1e-6)
    return text if len(text) <= most else text[: max(most - 1, 1)] + "…"


def _text(x: float, y: float, kind: str, words: str, anchor: str = "start") -> str:
    end = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{end}>{escape(words)}</text>'


def _box(page: _Page, entry: Entry, y: float, height: float) -> None:
    x, width = page.column(entry.key).left, page.column(entry.key).width
    tint = page.colour.get(entry.key, TINT[entry.section])
    fill, dash = ("#e5e7eb", ' stroke-dasharray="5 3"') if entry.state else ("#ffffff", "")
    if entry.state == "partly frozen":
        fill = "#f3f4f6"
    tip = "\n".join([f"{entry.name} ({entry.type})", *details(entry)])
    page.parts.append(
        f"<g><title>{escape(tip)}</title>"
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" '
        f'fill="{fill}" stroke="{tint}"{dash}/>'
        f'<rect x="{x:.1f}" y="{y + 6:.1f}" width="4" height="{height - 12:.1f}" fill="{tint}"/>'
    )
    left, room = x + 14, width - 24
    at = y + PAD + 10
    name = _cut(entry.name, room, NAME)
    page.parts.append(_text(left, at, "n", name))
    spare = room - len(name) * NAME - 12
    if spare > 4 * SMALL:
        page.parts.append(_text(x + width - 10, at, "s", _cut(entry.type, spare), "end"))
    for line in _lines(entry):
        at += LINE
        page.parts.append(_text(left, at, "s", _cut(line, room)))
    if entry.layers:
        _cells(page, entry, left, at + 8, room)
    page.parts.append("</g>")


def _cells(page: _Page, entry: Entry, x: float, y: float, room: float) -> None:
    """One cell a layer that is built, coloured by the operators that act there."""
    wide = min(CELL, (room - len(entry.layers) * SMALL - 6) / max(entry.depth, 1))
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
    beside = x + (entry.depth * wide + 6 if entry.depth else 0)
    page.parts.append(_text(beside, y + STRIP - 2, "s", entry.layers))


def _line(page: _Page, link: Link) -> None:
    """A curve that leaves level beneath its label, arrives level, and passes the columns between in
    its lane."""
    ends = [y + HEAD for y in page.drawing.ends[link]]
    first = page.drawing.column_of[link.source]
    x, arrive = page.columns[first].right, page.column(link.target).left - 7
    edit = link.kind == "edit"
    if arrive < x:
        path = f"M{x:.1f} {ends[0]:.1f} C{x + 60:.1f} {ends[0]:.1f}"
        path += f" {arrive - 60:.1f} {ends[-1]:.1f} {arrive:.1f} {ends[-1]:.1f}"
    else:
        path = f"M{x + 7 * edit:.1f} {ends[0]:.1f}"
        for number, (y, then) in enumerate(pairwise(ends)):
            column = page.columns[first + number]
            last = number == len(ends) - 2
            bend, stop = column.right + max(column.lead, 7 * edit), arrive if last else column.end
            half = (stop - bend) / 2
            path += f" H{bend:.1f} C{bend + half:.1f} {y:.1f} {stop - half:.1f} {then:.1f}"
            path += f" {stop:.1f} {then:.1f}"
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
        words = _cut(link.text, LABEL, TINY)
        left = page.columns[first].right + (16 if edit else 8)
        page.labels.append(_text(left, ends[0] - 4, "e", words))


def _whole(page: _Page) -> str:
    drawing = page.drawing
    width = max(page.columns[-1].right + MARGIN if page.columns else 0, 560)
    height = HEAD + drawing.height + MARGIN
    head = [
        _text(MARGIN, 34, "t", page.summary.title),
        _text(MARGIN, 54, "s", page.summary.counts() + _flops(page.summary)),
    ]
    for number, names in enumerate(drawing.columns):
        head.append(_text(page.columns[number].left, HEAD - 12, "h", _heading(names, page.entries)))
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

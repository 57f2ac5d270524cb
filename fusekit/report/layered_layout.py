"""Places boxes in columns so that lines run left to right and cross little.

The usual four steps of a layered drawing (Sugiyama, Tagawa, Toda 1981): columns by longest path,
places for long lines to pass through the columns between, an order within each column by the
median of neighbours, and heights that keep lines straight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

LANE = 14.0
"""Height of a place where a line passes through a column."""
GAP = 22.0
"""Between boxes of a column."""
SWEEPS = 12


@dataclass(frozen=True)
class Link:
    """A line from one box to another; `kind` and `text` are for whoever draws it."""

    source: str
    target: str
    kind: str = ""
    text: str = ""


@dataclass
class Drawing:
    """Where everything stands.

    Args:
      columns: names by column, places for passing lines left out.
      top: the upper edge of each box.
      ends: by link, the heights at which it leaves, passes each column between, and arrives.
      height: of the whole.
    """

    columns: list[list[str]]
    column_of: dict[str, int]
    top: dict[str, float]
    ends: dict[Link, list[float]] = field(default_factory=dict)
    height: float = 0.0


def place(ranks: Mapping[str, int], heights: Mapping[str, float], links: Sequence[Link]) -> Drawing:
    """Places boxes.

    Args:
      ranks: the column of each box.
      heights: of each box.
      links: lines, each to a column further right; others are drawn as they come.
    """
    columns: list[list[str]] = [[] for _ in range(max(ranks.values(), default=0) + 1)]
    tall = dict(heights)
    for name, rank in ranks.items():
        columns[rank].append(name)
    chains: dict[Link, list[str]] = {}
    for number, link in enumerate(links):
        chain = [link.source]
        for rank in range(ranks[link.source] + 1, ranks[link.target]):
            lane = f"\0{number}:{rank}"
            columns[rank].append(lane)
            tall[lane] = LANE
            chain.append(lane)
        chains[link] = [*chain, link.target]
    before, after = _neighbours(chains)
    for sweep in range(SWEEPS):
        order = range(1, len(columns)) if sweep % 2 == 0 else range(len(columns) - 2, -1, -1)
        for rank in order:
            _sort(columns[rank], columns, before if sweep % 2 == 0 else after)
    top = _heights(columns, tall, before, after)
    drawing = Drawing(
        [[name for name in column if not name.startswith("\0")] for column in columns],
        dict(ranks),
        {name: y for name, y in top.items() if not name.startswith("\0")},
        height=max((top[n] + tall[n] for n in top), default=0.0),
    )
    _ends(drawing, chains, top, tall)
    return drawing


Neighbours = dict[str, list[str]]


def _neighbours(chains: Mapping[Link, list[str]]) -> tuple[Neighbours, Neighbours]:
    before: Neighbours = {}
    after: Neighbours = {}
    for chain in chains.values():
        for one, other in pairwise(chain):
            before.setdefault(other, []).append(one)
            after.setdefault(one, []).append(other)
    return before, after


def _sort(column: list[str], columns: list[list[str]], neighbours: Neighbours) -> None:
    """Orders a column by the mean place of the neighbours; those without any stay put."""
    place = {n: i / max(len(c), 1) for c in columns for i, n in enumerate(c)}

    def wish(name: str) -> float:
        near = [place[n] for n in neighbours.get(name, ())]
        return sum(near) / len(near) if near else place[name]

    column.sort(key=wish)


def _heights(
    columns: list[list[str]], tall: Mapping[str, float], before: Neighbours, after: Neighbours
) -> dict[str, float]:
    """Upper edges: each box as near as possible to the middle of its neighbours."""
    top: dict[str, float] = {}
    for column in columns:
        y = 0.0
        for name in column:
            top[name] = y
            y += tall[name] + _gap(name)
    middle = max((top[c[-1]] + tall[c[-1]] for c in columns if c), default=0.0) / 2
    for column in columns:
        if column:
            shift = middle - (top[column[-1]] + tall[column[-1]]) / 2
            for name in column:
                top[name] += shift
    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 == 0 else columns[::-1]:
            wishes = []
            for name in column:
                near = [*before.get(name, ()), *after.get(name, ())]
                middles = [top[n] + tall[n] / 2 for n in near] or [top[name] + tall[name] / 2]
                wishes.append(sum(middles) / len(middles) - tall[name] / 2)
            for name, y in zip(column, _apart(column, wishes, tall), strict=True):
                top[name] = y
    least = min(top.values(), default=0.0)
    return {name: y - least for name, y in top.items()}


def _gap(name: str) -> float:
    return 4.0 if name.startswith("\0") else GAP


def _apart(
    column: Sequence[str], wishes: Sequence[float], tall: Mapping[str, float]
) -> list[float]:
    """Heights nearest to the wishes (least squares) that keep order and distance: isotonic
    regression by pooling adjacent violators."""
    offsets, y = [], 0.0
    for name in column:
        offsets.append(y)
        y += tall[name] + _gap(name)
    pools: list[tuple[float, int]] = []
    for wish, offset in zip(wishes, offsets, strict=True):
        mean, size = wish - offset, 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean = (mean * size + other * count) / (size + count)
            size += count
        pools.append((mean, size))
    flat = [mean for mean, size in pools for _ in range(size)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=True)]


def _ends(
    drawing: Drawing,
    chains: Mapping[Link, list[str]],
    top: Mapping[str, float],
    tall: Mapping[str, float],
) -> None:
    """Spreads the lines of a box over its side, in the order of where they go."""

    def middle(name: str) -> float:
        return top[name] + tall[name] / 2

    out: dict[str, list[Link]] = {}
    into: dict[str, list[Link]] = {}
    for link in chains:
        out.setdefault(link.source, []).append(link)
        into.setdefault(link.target, []).append(link)
    start: dict[Link, float] = {}
    stop: dict[Link, float] = {}
    for sides, ends, toward in ((out, start, 1), (into, stop, -2)):
        for name, side in sides.items():
            side.sort(key=lambda link, toward=toward: middle(chains[link][toward]))
            for number, link in enumerate(side):
                ends[link] = top[name] + tall[name] * (number + 1) / (len(side) + 1)
    for link, chain in chains.items():
        drawing.ends[link] = [start[link], *(middle(n) for n in chain[1:-1]), stop[link]]

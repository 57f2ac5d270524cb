"""Curves as SVG, drawn by hand: no library, no script, readable in any browser."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 36
COLOURS = ("#2457a8", "#c4501b", "#2c7a3f", "#7b3fa0", "#8a6d1a", "#1d7f8c")
MOST = 400
"""Points of a curve; more are thinned out."""

Points = Sequence[tuple[float, float]]


def curves(series: Mapping[str, Points], *, y: str, x: str = "step") -> str:
    """Named curves in one picture with axes and a legend.

    Points that are not finite are left out; where nothing is left, so is the picture.

    Args:
      series: points by name.
      y: what stands on the vertical axis.
      x: what stands on the horizontal axis.
    """
    shown = {name: _finite(points) for name, points in series.items()}
    shown = {name: points for name, points in shown.items() if points}
    if not shown:
        return ""
    xs = [px for points in shown.values() for px, _ in points]
    ys = [py for points in shown.values() for _, py in points]
    low_x, high_x = _span(min(xs), max(xs))
    low_y, high_y = _span(min(ys), max(ys))

    def at(px: float, py: float) -> tuple[float, float]:
        across = (px - low_x) / (high_x - low_x)
        up = (py - low_y) / (high_y - low_y)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y)} by {escape(x)}" '
        'xmlns="http://www.w3.org/2000/svg">'
    ]
    for value in ticks(low_y, high_y):
        _, h = at(low_x, value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{h:.1f}" y2="{h:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{h + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    for value in ticks(low_x, high_x):
        w, _ = at(value, low_y)
        parts.append(
            f'<text x="{w:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
        )
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(x)}</text>')
    for number, (name, points) in enumerate(shown.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in points)
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{line}"/>'
        )
        if len(points) == 1:
            w, h = at(*points[0])
            parts.append(f'<circle cx="{w:.1f}" cy="{h:.1f}" r="3" fill="{colour}"/>')
        parts.append(
            f'<text x="{LEFT + 8 + 150 * (number % 4)}" y="{TOP + 10 + 14 * (number // 4)}" '
            f'fill="{colour}">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _finite(points: Points) -> list[tuple[float, float]]:
    found = [(float(a), float(b)) for a, b in points if math.isfinite(a) and math.isfinite(b)]
    if len(found) <= MOST:
        return found
    stride = -(-len(found) // (MOST - 1))
    return [*found[:-1:stride], found[-1]]


def _span(low: float, high: float) -> tuple[float, float]:
    if high > low:
        return low, high
    width = abs(low) * 0.1 or 1.0
    return low - width, high + width


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two numbers: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]

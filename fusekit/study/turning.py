"""The search for a budget: knobs turned by one factor, then singly around it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, product
from math import floor, log
from typing import Protocol, TypeVar

RANGE = 4.0
"""A knob is turned between a fourth and four times what was declared."""
HALVINGS, SINGLY = 24, 48
"""How many factors, and how many combinations next to one, are tried at most."""
FEW = 5
"""Of so many settings all combinations are looked at; of more, only those that step in order."""


@dataclass(frozen=True)
class Setting:
    """One field that a knob turns: where it stands, what was declared, and what divides it."""

    section: str
    name: str
    field: str
    declared: int
    grain: int

    def at(self, scale: float) -> int:
        return max(round(self.declared * scale / self.grain), 1) * self.grain

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}.{self.field}"


class Rated(Protocol):
    """What was made of some values, by its cost over the one that is due."""

    @property
    def ratio(self) -> float: ...


R = TypeVar("R", bound=Rated)
Try = Callable[[dict[str, int]], R | None]
"""What values by path give; None where they are not possible."""


def nearest(settings: Sequence[Setting], declared: R, at: Try[R], tolerance: float) -> R:
    """What comes within the tolerance with the least change in proportions, or else nearest.

    Args:
      settings: at least one.
      declared: what stands where nothing is turned.
      at: tries values.
      tolerance: how far a ratio may be from 1.
    """
    tried: dict[tuple[int, ...], R | None] = {_key(settings, 1.0): declared}

    def attempt(values: tuple[int, ...]) -> R | None:
        if values not in tried:
            tried[values] = at(dict(zip((s.path for s in settings), values, strict=True)))
        return tried[values]

    scale = _common(settings, attempt)
    found = [one for one in tried.values() if one is not None]
    best = min(found, key=_off)
    if abs(best.ratio - 1) <= tolerance or not 1.1 / RANGE < scale < RANGE / 1.1:
        return best
    ordered = islice(_around(settings, scale), SINGLY)
    for _, equal in groupby(ordered, key=lambda values: round(_stray(settings, values, scale), 9)):
        some = [one for values in equal if (one := attempt(values)) is not None]
        best = min([best, *some], key=_off)
        if abs(best.ratio - 1) <= tolerance:
            return best
    return best


def _common(settings: Sequence[Setting], attempt: Callable[[tuple[int, ...]], R | None]) -> float:
    """The factor at which the cost crosses what is due, by halving the range. A factor that is
    not possible ends the range on its side: what was declared is."""
    low, high = 1 / RANGE, RANGE
    step = 1 + 0.25 * min(s.grain / s.declared for s in settings)
    scale = 1.0
    for _ in range(HALVINGS):
        found = attempt(_key(settings, scale))
        if found is None:
            low, high = (low, scale) if scale > 1 else (scale, high)
        else:
            low, high = (scale, high) if found.ratio < 1 else (low, scale)
        scale = (low * high) ** 0.5
        if high / low < step:
            break
    return scale


def _around(settings: Sequence[Setting], scale: float) -> Iterator[tuple[int, ...]]:
    """Values next to a factor, the least straying first."""
    near = [
        [s.grain * max(k, 1) for k in range(low - 1, low + 3)]
        for s in settings
        for low in [floor(s.declared * scale / s.grain)]
    ]
    if len(settings) <= FEW:
        combinations = set(product(*near))
    else:
        low, high = ([steps[k] for steps in near] for k in (1, 2))
        combinations = {(*high[:n], *low[n:]) for n in range(len(settings) + 1)}
    yield from sorted(
        combinations, key=lambda values: (round(_stray(settings, values, scale), 9), values)
    )


def _stray(settings: Sequence[Setting], values: Sequence[int], scale: float) -> float:
    """How far values are from one factor."""
    return sum(
        log(value / s.declared / scale) ** 2 for s, value in zip(settings, values, strict=True)
    )


def _key(settings: Sequence[Setting], scale: float) -> tuple[int, ...]:
    return tuple(s.at(scale) for s in settings)


def _off(found: Rated) -> float:
    return abs(log(found.ratio))

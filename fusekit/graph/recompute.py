"""What is recomputed backward as one piece, where layers are not scanned.

A layer alone is one piece. A layer that operators edit goes together with all that happens between
the first operator's `enter` and the last one's `leave`: within a place, edits and states may hold
functions and lists, which cannot cross the border of a recomputed piece. Scans are recomputed
repeat by repeat and need no grouping.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fusekit.component import Remat
from fusekit.graph.node import Event, Key
from fusekit.graph.schedule import Item, Scan

WITHIN = ("edit", "before", "raw", "after", "mid")
"""Kinds of values that nobody reads outside of a place."""


@dataclass(frozen=True)
class Recomputed:
    """Items that run as one piece, of which `remat` says what is kept for the backward pass."""

    items: tuple[Item, ...]
    remat: Remat

    @property
    def gives(self) -> tuple[Key, ...]:
        """What others may read."""
        return tuple(
            key
            for item in self.items
            for event in events_of(item)
            for key in event.gives
            if key.kind not in WITHIN
        )


def events_of(item: Item) -> tuple[Event, ...]:
    """The events of an item, all repeats of a scan included."""
    return tuple(e for r in item.repeats for e in r) if isinstance(item, Scan) else (item,)


def pieces(
    items: Sequence[Item], remat: Callable[[Iterable[Event]], Remat]
) -> tuple[Item | Recomputed, ...]:
    """The items in order, those gathered that are to be recomputed.

    Args:
      items: as the model walks them.
      remat: what the events of one piece keep.
    """
    found: list[Item | Recomputed] = []
    at = 0
    while at < len(items):
        size = _place(items, at)
        group = tuple(items[at : at + size])
        alone = [item for item in group if isinstance(item, Event)]
        if (kept := remat(alone)) != "none":
            found.append(Recomputed(group, kept))
        else:
            found.extend(group)
        at += size
    return tuple(found)


def _place(items: Sequence[Item], at: int) -> int:
    """How many items lie between the first `enter` here and the last `leave`; 1 without any."""
    open_: set[Key] = set()
    for size, item in enumerate(items[at:], 1):
        if isinstance(item, Event):
            open_.update(key for key in item.gives if key.kind == "mid")
            if item.kind == "leave":
                open_.difference_update(read.key for _, read in item.reads)
        if not open_:
            return size
    return len(items) - at

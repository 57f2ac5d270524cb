"""The schedule: runs of events that repeat with a period become scanned super-blocks.

Untouched runs have period one layer; lockstep stacks, or an operator at every fourth layer, give
longer periods. Where the repeats differ (in parameters, signatures or optimiser group) a run is
cut. Scan or unroll is a choice of layout and changes no parameter path.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from fusekit.graph.node import Event, Key

Alike = Callable[[Event], Hashable]
"""What must be equal for two repeats of an event to share one body, their index apart."""

LONGEST_PERIOD = 64
CARRIED = ("layer", "state")
"""What may pass from repeat to repeat: arrays, not an operator's wishes within a layer."""
SCANNED = ("layer", "enter", "leave")

Slot = tuple[int, int]
"""(event of the repeat, which of the values it gives)."""


@dataclass(frozen=True)
class Local:
    """A value of the same repeat."""

    slot: Slot


@dataclass(frozen=True)
class Carried:
    """A value of the repeat before; before the first repeat, `first`."""

    slot: Slot
    first: Key


@dataclass(frozen=True)
class Constant:
    """The same value from outside for every repeat."""

    key: Key


@dataclass(frozen=True)
class Varying:
    """Another value from outside for each repeat: taps of a finished stack."""

    keys: tuple[Key, ...]


From = Local | Carried | Constant | Varying


@dataclass(frozen=True)
class Scan:
    """Repeats of the same events with other indices.

    Args:
      repeats: the events of each repeat, slot by slot.
      sources: for each slot, where each of its reads comes from.
    """

    repeats: tuple[tuple[Event, ...], ...]
    sources: tuple[tuple[From, ...], ...]

    @property
    def count(self) -> int:
        return len(self.repeats)

    def indices(self, slot: int) -> tuple[int, ...]:
        """The layer or place index of one slot by repeat."""
        return tuple(repeat[slot].index for repeat in self.repeats)

    @property
    def carries(self) -> tuple[Carried, ...]:
        """What passes from repeat to repeat, each once."""
        found = dict.fromkeys(s for slot in self.sources for s in slot if isinstance(s, Carried))
        return tuple(found)


Item = Event | Scan


def schedule(
    events: Sequence[Event], *, alike: Alike, least: Callable[[Event], int]
) -> tuple[Item, ...]:
    """Cuts the events into single events and scans of at least as many repeats as `least` says of
    each event in them; 0: it is not scanned."""
    items: list[Item] = []
    at = 0
    while at < len(events):
        found = _longest(events, at, alike, least)
        items.append(found or events[at])
        at += len(found.repeats[0]) * found.count if found else 1
    return tuple(items)


def _longest(
    events: Sequence[Event], at: int, alike: Alike, least: Callable[[Event], int]
) -> Scan | None:
    """The scan starting here that covers most events; of equals the one of shortest period."""
    best: Scan | None = None
    covered = 0
    due = 2
    for period in range(1, min(LONGEST_PERIOD, (len(events) - at) // 2) + 1):
        own = least(events[at + period - 1])
        if own == 0:
            break
        due = max(due, own)
        if at + due * period > len(events):
            break
        count = _repeats(events, at, period, alike)
        if count < due or count * period <= covered:
            continue
        repeats = tuple(
            tuple(events[at + i * period : at + (i + 1) * period]) for i in range(count)
        )
        sources = _sources(repeats)
        if sources is not None:
            best, covered = Scan(repeats, sources), count * period
    return best


def _repeats(events: Sequence[Event], at: int, period: int, alike: Alike) -> int:
    """How often the next `period` events repeat, by kind, node, roles and likeness alone."""
    first = events[at : at + period]
    if any(event.kind not in SCANNED for event in first):
        return 0
    strides: list[int] | None = None
    count = 1
    while at + (count + 1) * period <= len(events):
        start = at + count * period
        steps: list[int] = []
        for one, other in zip(first, events[start : start + period], strict=True):
            if (one.kind, one.node) != (other.kind, other.node):
                return count
            if _roles(one) != _roles(other) or alike(one) != alike(other):
                return count
            steps.append(other.index - one.index)
        per_repeat = [step // count for step in steps]
        if strides is None:
            strides = steps
        if per_repeat != strides or steps != [s * count for s in strides]:
            return count
        count += 1
    return count


def _roles(event: Event) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((role, read.ports) for role, read in event.reads)


def _sources(repeats: tuple[tuple[Event, ...], ...]) -> tuple[tuple[From, ...], ...] | None:
    """Where each read comes from, if that is the same in every repeat."""
    given: list[dict[Key, Slot]] = [
        {key: (j, g) for j, event in enumerate(repeat) for g, key in enumerate(event.gives)}
        for repeat in repeats
    ]
    inside = {key for keys in given for key in keys}
    sources: list[tuple[From, ...]] = []
    for j, event in enumerate(repeats[0]):
        found: list[From] = []
        for number in range(len(event.reads)):
            keys = [repeat[j].reads[number][1].key for repeat in repeats]
            source = _source(keys, given, inside)
            if source is None:
                return None
            found.append(source)
        sources.append(tuple(found))
    return tuple(sources)


def _source(keys: list[Key], given: list[dict[Key, Slot]], inside: set[Key]) -> From | None:
    if all(key not in inside for key in keys):
        return Constant(keys[0]) if len(set(keys)) == 1 else Varying(tuple(keys))
    slots = {given[i].get(key) for i, key in enumerate(keys)}
    if len(slots) == 1 and None not in slots:
        return Local(next(s for s in slots if s is not None))
    before = {given[i - 1].get(key) for i, key in enumerate(keys) if i > 0}
    if keys[0] in inside or keys[0].kind not in CARRIED:
        return None
    if len(before) == 1 and None not in before:
        return Carried(next(s for s in before if s is not None), keys[0])
    return None

"""Which column of a diagram each component stands in."""

from collections.abc import Mapping

from fusekit.report.summary import Entry, Summary

SECTIONS = ("modalities", "encoders", "fusion", "heads", "parts", "losses")


def columns(summary: Summary) -> dict[str, int]:
    """The column of each entry: right of all that it reads; losses last, before them the heads that
    only losses read.

    An operator stands right of the stacks that it edits, and what reads these stacks afterwards
    right of the operator. Where stacks read each other at different layers one of the lines has to
    run backwards.
    """
    entries = {e.key: e for e in summary.entries if e.section in SECTIONS}
    found: dict[str, int] = {}
    waiting: set[str] = set()

    def rank(key: str) -> int:
        if key in found:
            return found[key]
        waiting.add(key)
        near = [rank(s) + 1 for s in _sources(entries[key], entries) if s not in waiting]
        waiting.discard(key)
        least = 0 if entries[key].section == "modalities" else 1
        found[key] = max([least, *near])
        return found[key]

    for key in entries:
        rank(key)
    read = {s for e in entries.values() if e.section != "losses" for s in _sources(e, entries)}
    ends = {key for key, entry in entries.items() if entry.section == "heads" and key not in read}
    inner = (r for k, r in found.items() if k not in ends and entries[k].section != "losses")
    last = max(inner, default=0)
    for key in ends:
        found[key] = max(found[key], last + 1)
    last = max((r for k, r in found.items() if entries[k].section != "losses"), default=0)
    found |= {key: last + 1 for key, entry in entries.items() if entry.section == "losses"}
    return _packed(found)


def _sources(entry: Entry, entries: Mapping[str, Entry]) -> list[str]:
    """What an entry stands right of."""
    near = [touch.stack for touch in entry.touches if entry.section == "fusion"]
    for edge in entry.reads:
        near.append(edge.source)
        source = entries.get(edge.source)
        if source is not None and source.section == "encoders":
            near += [
                touch.operator
                for touch in source.touches
                if touch.operator != entry.key
                and (not edge.layers or max(edge.layers) >= min(touch.layers))
            ]
    return [key for key in dict.fromkeys(near) if key in entries and key != entry.key]


def _packed(ranks: Mapping[str, int]) -> dict[str, int]:
    """The same order without empty columns."""
    order = {rank: place for place, rank in enumerate(sorted(set(ranks.values())))}
    return {key: order[rank] for key, rank in ranks.items()}

"""Which sections an experiment has, and which slot fills each."""

from fusekit.config.tree import Path

VERSION = 1
"""Of the language. Every file gives it."""

SECTIONS = {
    "modalities": "modality",
    "encoders": "encoder",
    "fusion": "fusion",
    "heads": "head",
    "losses": "loss",
    "metrics": "metric",
    "data": "source",
}
"""Sections that hold entries by name, and the slot of their entries."""

NODES = ("encoders", "fusion", "heads")
"""Sections that share one namespace of nodes."""

LOSSES = "losses."
"""Before the name of a loss, where those of nodes stand too."""

SINGLE = {("train", "optimizer"): "optimizer", ("train", "schedule"): "schedule"}
"""Components that stand alone."""

OTHER = ("version", "parts", "train", "stages", "mesh", "meta")
RESERVED = {"batch": "what comes from data"}
"""Names that no entry may take, and what they stand for."""

_RULE = "a rule of what tokens see"
RESERVED_NODES = {
    "input": "what enters layer 0",
    **dict.fromkeys(("all", "none", "causal", "item", "latest"), _RULE),
}
"""Names that no modality and no node may take besides, and what they stand for."""

LATER = {
    "like": "the size, written out",
    "tag": "",
    "interleaved": "",
    "next_token": "",
    "subset": "",
}
"""Sections, fields and types of the design that are not there yet, and what to write instead."""

ENTRY = {slot: section for section, slot in SECTIONS.items()}
"""The section of a slot, for those that have one."""

EXCLUSIVE = (("train", ("steps", "epochs")),)
"""Fields of which a config gives one: whoever extends it with another takes the first away."""


def slot_at(path: Path) -> str | None:
    """The slot of the component that stands at a path, if one is due there."""
    if len(path) == 2 and path[0] in SECTIONS:
        return SECTIONS[str(path[0])]
    return SINGLE.get((str(path[0]), str(path[1]))) if len(path) == 2 else None


def later(name: str) -> str:
    """What to say of a name that the language knows and this version does not."""
    return f"`{name}` is part of the language, not in this version"


def null_is_a_value(path: Path) -> bool:
    """Whether null means something there and does not delete: "not split", in the rule tables."""
    return len(path) == 3 and path[0] == "mesh" and path[1] in ("params", "activations")

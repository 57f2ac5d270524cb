"""Kinds of instructions: which do nothing, which are collectives, what a custom call calls."""

from fusekit.plan.hlo.module import Instruction

_FREE = frozenset(
    {
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "while",
        "conditional",
        "call",
        "async-start",
        "async-update",
        "after-all",
        "optimization-barrier",
        "add-dependency",
        "domain",
        "partition-id",
        "replica-id",
    }
)
_FREE_CALLS = frozenset(
    {
        "AllocateBuffer",
        "AssumeGatherIndicesInBound",
        "AsyncCollectiveDone",
        "AsyncCollectiveStart",
        "ConcatBitcast",
        "SliceId",
    }
)
_COLLECTIVES = frozenset(
    {
        "all-gather",
        "all-reduce",
        "reduce-scatter",
        "all-to-all",
        "ragged-all-to-all",
        "collective-permute",
        "collective-broadcast",
    }
)


def target(instruction: Instruction) -> str:
    """What a custom call calls; empty for any other instruction."""
    if not instruction.opcode.startswith("custom-call"):
        return ""
    return instruction.attribute("custom_call_target").strip('"')


def is_free(instruction: Instruction) -> bool:
    """Whether it moves and computes nothing by itself: names a value, or calls what does."""
    opcode = instruction.opcode
    return opcode in _FREE or opcode.endswith("-done") or target(instruction) in _FREE_CALLS


def collective(instruction: Instruction) -> str:
    """Which collective it is or starts; empty if none."""
    opcode = instruction.opcode.removesuffix("-start")
    return opcode if opcode in _COLLECTIVES else ""


def continued(instruction: Instruction) -> bool:
    """Whether it is a collective that TPU cut into pieces, to go on beside a fusion's own work."""
    return '"async_collective_fusion_config"' in instruction.backend_config

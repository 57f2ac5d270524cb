"""Optimised HLO text (`compiled.as_text()`) as plain data: computations of instructions.

Reads what XLA prints for TPU, CPU and GPU. Whatever else it is given, it raises `HloError`.
"""

import re
from collections.abc import Iterator

from fusekit.errors import HloError
from fusekit.plan.hlo.groups import groups_of
from fusekit.plan.hlo.module import Computation, Instruction, Module
from fusekit.plan.hlo.shapes import Shape, integer, integers, shapes_of

_INSTRUCTION = re.compile(r"\s+(ROOT )?%(\S+) = (.*?) ([a-z][\w\-]*)\(")
_COMPUTATION = re.compile(r"(ENTRY )?%(\S+) .*\{$")
_BRACKET = re.compile(r"[()]")
_OPERAND = re.compile(r"%([^\s,()]+)")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([^\s,{}]+)"
)
_BRANCHES = re.compile(r"\b(branch_computations|called_computations|calls)=\{([^{}]*)\}")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_GROUPS = re.compile(r"\breplica_groups=(\{(?:\{[\d,\s]*\}|[,\s])*\}|\[\S*|@?mesh\[.*?\} ?(?=,|$))")
_PAIRS = re.compile(r"\bsource_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")
_DIMENSIONS = re.compile(r"\bdimensions=\{([\d,]*)\}")
_OP_NAME = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_COUNTS = re.compile(r"\b(replica_count|num_partitions)=(\d+)")
_TAILS = (", sharding=", ", frontend_attributes=", ", metadata=", ", backend_config=")
_DEEPEST = 100
_COLLECTIVE = ("all-", "reduce-scatter", "collective-", "ragged-all", "async-")


def parse(text: str) -> Module:
    """The module that a text prints. Raises `HloError` if it prints none, or only a part of one."""
    lines = text.split("\n")
    head = next((line for line in lines if line.startswith("HloModule ")), None)
    if head is None:
        raise HloError("no HLO: no line begins with `HloModule`")
    counts = {name: integer(count) for name, count in _COUNTS.findall(head)}
    name = head.split(",")[0].split()[-1]
    computations: dict[str, Computation] = {}
    entry = None
    for is_entry, title, body in _bodies(lines):
        computations[title] = _computation(title, body)
        entry = title if is_entry else entry
    if entry is None:
        raise HloError(f"module {name} has no entry computation")
    _check_calls(computations)
    devices = counts.get("replica_count", 1) * counts.get("num_partitions", 1)
    return Module(name, devices, computations, entry)


def _bodies(lines: list[str]) -> Iterator[tuple[bool, str, list[str]]]:
    """Of every computation: whether it is the entry, its name and its instructions' lines."""
    title: re.Match[str] | None = None
    body: list[str] = []
    for line in lines:
        if title is None:
            if line.endswith("{") and (line.startswith(("%", "ENTRY "))):
                title = _COMPUTATION.match(line)
                if title is None:
                    raise HloError(f"no computation: {line[:80]!r}")
                body = []
        elif line.rstrip() == "}" or line.startswith("}, "):
            yield bool(title[1]), title[2], body
            title = None
        elif _INSTRUCTION.match(line):
            body.append(line)
        elif line.strip():
            if not body:
                raise HloError(f"no instruction: {line[:80]!r}")
            body[-1] += " " + line.strip()  # a constant over several lines
    if title is not None:
        raise HloError(f"the text ends within computation {title[2]}")


def _check_calls(computations: dict[str, Computation]) -> None:
    """Raises `HloError` unless each computation calls only such as stand before it, as is printed.

    Nothing calls itself then, and what follows calls comes to an end.
    """
    depth: dict[str, int] = {}
    for computation in computations.values():
        deepest = 0
        for instruction in computation.instructions.values():
            for _, called in instruction.called:
                if called not in depth:
                    raise HloError(f"{instruction.name} calls {called}, which is not before it")
                deepest = max(deepest, depth[called] + 1)
        if deepest > _DEEPEST:
            raise HloError(f"{computation.name} calls {deepest} computations deep")
        depth[computation.name] = deepest


def _computation(name: str, body: list[str]) -> Computation:
    instructions: dict[str, Instruction] = {}
    root = None
    for line in body:
        instruction, is_root = _instruction(line)
        for operand in instruction.operands:
            if operand not in instructions:
                raise HloError(f"{instruction.name} reads {operand}, which is not before it")
        instructions[instruction.name] = instruction
        root = instruction.name if is_root else root
    if root is None:
        raise HloError(f"computation {name} has no root")
    return Computation(name, instructions, root)


def _instruction(line: str) -> tuple[Instruction, bool]:
    head = _INSTRUCTION.match(line)
    assert head is not None
    root, name, shape, opcode = head.groups()
    end = _closing(line, head.end())
    argument = line[head.end() : end]
    cuts = [at for tail in _TAILS if (at := line.find(tail, end)) >= 0]
    cut = min(cuts, default=len(line))
    attributes = line[end + 1 : cut]
    config = line.find(", backend_config=", cut)
    rest = line[cut : config if config >= 0 else len(line)]
    mark = rest.find("metadata={")
    op_name = _OP_NAME.search(rest, mark) if mark >= 0 else None
    channel = _CHANNEL.search(attributes)
    dimensions = _DIMENSIONS.search(attributes)
    operands = () if opcode in ("constant", "parameter") else tuple(_OPERAND.findall(argument))
    groups, pairs = None, ()
    if opcode.startswith(_COLLECTIVE) or "source_target_pairs" in attributes:
        found = _GROUPS.search(attributes)
        groups = groups_of(found[1].rstrip(", ")) if found else None
        listed = _PAIRS.search(attributes)
        pairs = groups_of("{" + listed[1] + "}") if listed else ()
    instruction = Instruction(
        name=name,
        opcode=opcode,
        shapes=_shapes(shape, name),
        operands=operands,
        argument=argument,
        called=_called(attributes),
        attributes=attributes,
        channel_id=integer(channel[1]) if channel else None,
        replica_groups=groups,
        source_target_pairs=tuple((pair[0], pair[1]) for pair in pairs),
        dimensions=integers(dimensions[1]) if dimensions else (),
        op_name=op_name[1] if op_name else "",
        frontend_attributes=rest[:mark] if mark >= 0 else rest,
        backend_config=line[config + len(", backend_config=") :] if config >= 0 else "",
    )
    return instruction, bool(root)


def _shapes(text: str, name: str) -> tuple[Shape, ...]:
    try:
        return shapes_of(text)
    except HloError as error:
        error.add_note(f"in the result of {name}")
        raise


def _closing(line: str, start: int) -> int:
    """Where the bracket closes that opened just before `start`."""
    depth = 1
    for bracket in _BRACKET.finditer(line, start):
        depth += 1 if bracket[0] == "(" else -1
        if depth == 0:
            return bracket.start()
    raise HloError(f"a bracket does not close: {line.strip()[:80]!r}")


def _called(attributes: str) -> tuple[tuple[str, str], ...]:
    if "=" not in attributes:
        return ()
    found = _CALLED.findall(attributes)
    for role, names in _BRANCHES.findall(attributes):
        found += [(role, name.strip().removeprefix("%")) for name in names.split(",")]
    return tuple((role, name) for role, name in found if name)

"""How often each instruction of a program runs in one step."""

from collections.abc import Callable
from dataclasses import dataclass

from fusekit.plan.hlo.loops import turns
from fusekit.plan.hlo.module import Computation, Instruction, Module
from fusekit.scope import SELDOM

Price = Callable[[Computation, Instruction], tuple[int, ...]]


@dataclass(frozen=True)
class Visit:
    """An instruction and how often it runs. A fusion is one instruction, what it fuses is none."""

    computation: Computation
    instruction: Instruction
    times: int


@dataclass(frozen=True)
class Walk:
    """What runs.

    Args:
      unknown_loops: loops whose turns the text does not tell for certain, with the turns assumed.
    """

    visits: tuple[Visit, ...]
    unknown_loops: dict[str, int]


def walk(module: Module, price: Price) -> Walk:
    """Everything that runs, loops as often as they turn, of a conditional the dearest branch; the
    cheapest where it is marked as one that seldom does (`fusekit.scope.SELDOM`).

    What a loop's condition does is counted as often as its body, though it runs once more.

    Args:
      price: of one run of an instruction; branches are compared by the sums of these tuples.
    """
    unknown: dict[str, int] = {}

    def run(name: str, times: int) -> list[Visit]:
        computation = module.computations[name]
        found: list[Visit] = []
        for instruction in computation.instructions.values():
            found.append(Visit(computation, instruction, times))
            match instruction.opcode:
                case "while":
                    taken = turns(module, computation, instruction)
                    if not taken.certain:
                        unknown[instruction.name] = taken.count
                    for called in instruction.calls("condition", "body"):
                        found += run(called, times * taken.count)
                case "conditional":
                    roles = ("branch_computations", "true_computation", "false_computation")
                    branches = [run(called, times) for called in instruction.calls(*roles)]
                    pick = min if SELDOM in instruction.op_name else max
                    found += pick(branches, key=dearness, default=[])
                case "call" | "async-start":
                    for called in instruction.calls("to_apply", "calls", "called_computations"):
                        found += run(called, times)
        return found

    def dearness(branch: list[Visit]) -> tuple[int, ...]:
        prices = [
            [one * visit.times for one in price(visit.computation, visit.instruction)]
            for visit in branch
        ]
        return tuple(sum(column) for column in zip(*prices, strict=True))

    return Walk(tuple(run(module.entry, 1)), unknown)

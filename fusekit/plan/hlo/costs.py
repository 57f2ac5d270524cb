"""What one step of a compiled program costs a device, read from its optimised HLO text.

Nothing here is measured. Cycles are the TPU compiler's own estimates; FLOPs and bytes follow from
shapes. `fusekit.plan.hlo.memory` says where `hbm_bytes` is too low or too high.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from fusekit.plan.hlo.collectives import Collective, collectives
from fusekit.plan.hlo.kinds import collective, is_free, target
from fusekit.plan.hlo.memory import hbm_bytes
from fusekit.plan.hlo.module import Computation, Instruction, Module
from fusekit.plan.hlo.parse import parse
from fusekit.plan.hlo.placement import Placement
from fusekit.plan.hlo.products import Declared, custom, products
from fusekit.plan.hlo.scopes import scope_in, scope_of
from fusekit.plan.hlo.walk import walk

_ESTIMATE = re.compile(r'"estimated_cycles":"?(\d{1,18})\b')


@dataclass(frozen=True)
class Costs:
    """What one step costs one device.

    Args:
      cycles: the compiler's estimates, summed; 0 on CPU and GPU, which give none.
      cycles_by_scope: by node; under "" what belongs to none, such as the optimiser.
      unestimated: how often instructions run that have no estimate, by opcode: collectives and
        copies, whose time depends on links and memory, and custom calls by what they call.
      dot_flops: of products, two for a multiply-add.
      custom_calls: how often custom calls and ragged products run, whose work is in no sum here.
      declared: what those among them that are kernels say that they do, as often as they run, by
        node.
      hbm_bytes: read and written in main memory.
      kernels: FLOPs and bytes of every instruction, as often as it runs.
      collectives: in the order of the text.
      unknown_loops: loops whose turns the text does not tell, with the turns that were assumed.
    """

    cycles: int
    cycles_by_scope: dict[str, int]
    unestimated: dict[str, int]
    dot_flops: int
    dot_flops_by_scope: dict[str, int]
    custom_calls: dict[str, int]
    declared: tuple[tuple[str, Declared], ...]
    hbm_bytes: int
    kernels: tuple[tuple[int, int], ...]
    collectives: tuple[Collective, ...]
    unknown_loops: dict[str, int]

    @property
    def custom_flops(self) -> int:
        """FLOPs that kernels declare."""
        return sum(work.flops for _, work in self.declared)

    @property
    def ici_bytes_by_axes(self) -> dict[tuple[str, ...], int]:
        """Bytes that a device sends within its slice, by the axes of the collective's groups."""
        return self._bytes(dcn=False)

    @property
    def dcn_bytes_by_axes(self) -> dict[tuple[str, ...], int]:
        """Bytes that a device sends in collectives that cross slices, what stays inside included:
        on TPU nothing does, since XLA parts such a collective into one within and one between."""
        return self._bytes(dcn=True)

    def _bytes(self, dcn: bool) -> dict[tuple[str, ...], int]:
        found: Counter[tuple[str, ...]] = Counter()
        for one in self.collectives:
            if one.dcn == dcn and one.total_bytes:
                found[one.axes] += one.total_bytes
        return dict(found)


def costs(
    text: str, mesh_shape: Mapping[str, int], slices: int = 1, slice_axis: str | None = None
) -> Costs:
    """The costs of a compiled program.

    Raises `HloError` if the text cannot be read or is for another number of devices.

    Args:
      text: `compiled.as_text()`.
      mesh_shape: sizes by axis, in the mesh's order.
      slices: TPU slices, or hosts of GPUs, that the mesh spans.
      slice_axis: the axis along which slices follow each other, each a block of it; without it
        each slice is a block of the flattened mesh.
    """
    module = parse(text)
    placement = Placement.of(mesh_shape, module.devices, slices, slice_axis)
    cycles: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    unestimated: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    kernels: list[tuple[int, int]] = []
    found: list[Collective] = []
    declared: list[tuple[str, Declared]] = []
    moved = 0

    def price(computation: Computation, instruction: Instruction) -> tuple[int, ...]:
        total = sum(count for _, count in products(module, computation, instruction))
        return (_cycles(instruction) or 0, total, hbm_bytes(module, computation, instruction))

    walked = walk(module, price)
    for visit in walked.visits:
        computation, instruction, times = visit.computation, visit.instruction, visit.times
        estimate = _cycles(instruction)
        if estimate is not None:
            cycles[scope_of(module, computation, instruction)] += estimate * times
        elif not is_free(instruction):
            unestimated[_kind(module, instruction)] += times
        within = 0
        for product, count in products(module, computation, instruction):
            scope = scope_in(product.op_name) or scope_of(module, computation, instruction)
            flops[scope] += count * times
            within += count * times
        for name, claimed in () if within else custom(module, instruction):
            calls[name] += times
            if any(claimed):
                work = Declared(*(times * amount for amount in claimed))
                declared.append((scope_of(module, computation, instruction), work))
        bytes_ = hbm_bytes(module, computation, instruction) * times
        kernels += [(within, bytes_)] if within or bytes_ else []
        moved += bytes_
        found += collectives(module, visit, placement)
    return Costs(
        cycles=cycles.total(),
        cycles_by_scope=dict(cycles),
        unestimated=dict(unestimated),
        dot_flops=flops.total(),
        dot_flops_by_scope=dict(flops),
        custom_calls=dict(calls),
        declared=tuple(declared),
        hbm_bytes=moved,
        kernels=tuple(kernels),
        collectives=tuple(found),
        unknown_loops=walked.unknown_loops,
    )


def _cycles(instruction: Instruction) -> int | None:
    found = _ESTIMATE.search(instruction.backend_config)
    return int(found[1]) if found else None


def _kind(module: Module, instruction: Instruction) -> str:
    """An opcode that says more of a custom call, and of a fusion that is a collective."""
    if instruction.opcode == "fusion":
        inside = {collective(inner) for _, inner in module.inside(instruction)} - {""}
        return " ".join(["fusion", *sorted(inside)])
    return f"{instruction.opcode} {target(instruction)}".strip()

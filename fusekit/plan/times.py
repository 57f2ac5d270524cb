"""From what a step costs to how long it may take: a range, estimated and never measured.

Compute is the compiler's cycles over the clock that makes them fit the chip's peak; where there are
none, what `fusekit.plan.analytic` makes of it, or else the longer of FLOPs over the peak and bytes
over the memory's rate. Links are bytes over their
rates. How far these overlap is not known: the shortest step hides all but the longest of them, the
longest step hides nothing.
"""

from dataclasses import dataclass

from fusekit.plan.compiled import Axes, Measure
from fusekit_tpu.topology import Topology

RING = 2
"""Links that a ring along one mesh axis sends over: one each way round."""
SPARE = 0.06
"""Share of the memory to leave for what is not in the step, such as batches that wait."""


@dataclass(frozen=True)
class Times:
    """Seconds of one step.

    Args:
      compute, memory, ici, dcn: each by itself; `memory` is HBM bytes over its rate, and part of
        `compute` where the compiler counts cycles.
    """

    compute: float
    memory: float
    ici: float
    dcn: float

    @property
    def shortest(self) -> float:
        return max(self.compute, self.ici, self.dcn)

    @property
    def longest(self) -> float:
        return self.compute + self.ici + self.dcn

    @property
    def bound(self) -> str:
        """What the shortest step waits for."""
        if self.shortest == self.compute:
            return "HBM" if self.memory >= 0.9 * self.compute else "compute"
        return "ICI" if self.shortest == self.ici else "DCN"


def times(found: Measure, topology: Topology) -> Times:
    """How long one step takes on each device of a topology."""
    chip, devices = topology.chip, topology.chip.devices
    memory = found.hbm / (chip.hbm_rate / devices)
    compute = found.compute or max(found.flops / (chip.flops / devices), memory)
    if found.cycles and chip.clock:
        compute = found.cycles / chip.clock
    return Times(compute, memory, _ici(found, topology), _dcn(found, topology))


def _ici(found: Measure, topology: Topology) -> float:
    rate, links = topology.chip.link_rate, topology.chip.links
    if not rate or not links:
        return 0.0
    return sum(bytes_ / (rate * _links(axes, links)) for axes, bytes_ in found.ici.items())


def _links(axes: Axes, links: int) -> int:
    """Links that collectives along mesh axes send over: those of a ring for each."""
    return min(RING * max(len(axes), 1), links)


def _dcn(found: Measure, topology: Topology) -> float:
    if not topology.chip.host_rate or topology.slices == 1:
        return 0.0
    of_device = topology.chip.host_rate / (topology.chips_per_host * topology.chip.devices)
    return sum(found.dcn.values()) / of_device


def utilisation(found: Measure, seconds: float, topology: Topology) -> float:
    """FLOPs of a step over what the device could do in that time (MFU); with remat what is computed
    again counts too."""
    peak = topology.chip.flops / topology.chip.devices
    return found.flops / (seconds * peak) if seconds > 0 else 0.0


def limit(topology: Topology) -> float:
    """Bytes that a program may take on a device."""
    return float(topology.chip.usable or topology.chip.hbm / topology.chip.devices)


def fits(found: Measure, topology: Topology) -> bool:
    """Whether a step has room: as the compiler found, or else with some to spare."""
    if found.fits is not None:
        return found.fits
    return found.peak <= limit(topology) * (1 - SPARE)

"""Topologies: which chips a job has and how they are joined, as `v5e:16x16` or `h200:8x4`."""

import re
from dataclasses import dataclass
from functools import lru_cache
from math import log, prod

from fusekit.errors import FusekitError, Problem, nearest
from fusekit_tpu.chips import CHIPS, Chip

GPUS = (1, 2, 4, 8)
"""Of one machine; where there are several machines each has 8."""
SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
"""All slices of v5e and v6e: docs.cloud.google.com/tpu/docs/v5e and v6e."""
SMALL = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
"""Slices of less than one cube of 4x4x4 chips: xpk, system_characteristics.py."""
LONGEST = 256
"""No side of a slice has more chips: xpk, as above."""


class TopologyError(FusekitError):
    """No such topology can be had."""

    def __init__(self, message: str, found: str, expected: str, near: tuple[str, ...] = ()):
        super().__init__(str(Problem((), message, found, expected, near)))


@dataclass(frozen=True)
class Topology:
    """Chips joined into slices, or GPUs into machines. `Topology.parse` checks what it is given.

    Args:
      chip: which.
      shape: of one slice of TPUs; of GPUs, how many a machine has and how many machines.
      slices: joined by the network of the data centre.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @staticmethod
    def parse(text: str, *, slices: int = 1) -> "Topology":
        """A topology from `CHIP:SHAPE`.

        Raises `TopologyError` with shapes that exist, if there is no such chip or shape.
        """
        name, _, rest = text.partition(":")
        if name not in CHIPS:
            known = ", ".join(CHIPS)
            raise TopologyError("there is no such chip", name, known, nearest(name, CHIPS))
        chip = CHIPS[name]
        form = "GPUS, or GPUSxMACHINES" if chip.platform == "cuda" else "sizes, as 4x4"
        if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4}){0,2}", rest):
            raise TopologyError(f"{name} has no such shape", rest, f"{name}:{form}", _first(chip))
        shape = tuple(int(size) for size in rest.split("x"))
        if not _exists(chip, shape):
            raise TopologyError(f"{name} has no such shape", rest, _rule(chip), _near(chip, shape))
        if slices < 1 or (slices > 1 and chip.platform == "cuda"):
            due = "1: machines of GPUs are part of the shape, as h200:8x4"
            raise TopologyError(
                "there is no such number of slices",
                str(slices),
                due if chip.platform == "cuda" else "1 or more",
            )
        return Topology(chip, shape, slices)

    def __str__(self) -> str:
        many = f" in {self.slices} slices" if self.slices > 1 else ""
        return f"{self.chip.name}:{self.shape_text}{many}"

    @property
    def shape_text(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def chips(self) -> int:
        """In all slices."""
        return prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        """That JAX shows, and so the size of a mesh."""
        return self.chips * self.chip.devices

    @property
    def block(self) -> int:
        """Devices that fast links join: those of a slice, or of a machine of GPUs."""
        parts = self.hosts if self.chip.platform == "cuda" else self.slices
        return self.devices // parts

    @property
    def chips_per_host(self) -> int:
        """Of one machine, which runs one process unless its launcher starts more."""
        if self.chip.platform == "cuda":
            return self.shape[0]
        # 2x4 of v5e and v6e comes as one machine of 8 chips
        return prod(self.shape) if self.shape in ((1, 1), (2, 4)) else self.chip.chips_per_host

    @property
    def hosts_per_slice(self) -> int:
        return prod(self.shape) // self.chips_per_host

    @property
    def hosts(self) -> int:
        """Machines, in all slices."""
        return self.hosts_per_slice * self.slices

    @property
    def accelerator_type(self) -> str:
        """What the TPU API and xpk call one slice; the number of v4, v5p and 7x counts cores.

        Raises `TopologyError` for GPUs, which have no such name.
        """
        names = {"v4": "v4", "v5e": "v5litepod", "v5p": "v5p", "v6e": "v6e", "7x": "tpu7x"}
        if self.chip.name not in names:
            raise TopologyError("a GPU has no accelerator type", self.chip.name, "a TPU")
        return f"{names[self.chip.name]}-{prod(self.shape) * self.chip.cores}"

    @property
    def node_selector(self) -> dict[str, str]:
        """Labels of the GKE nodes that have these chips: xpk, system_characteristics.py."""
        if self.chip.platform == "cuda":
            gpus = {"h100": "nvidia-h100-80gb", "h200": "nvidia-h200-141gb"}
            return {"cloud.google.com/gke-accelerator": gpus[self.chip.name]}
        tpus = {
            "v4": "tpu-v4-podslice",
            "v5e": "tpu-v5-lite-podslice",
            "v5p": "tpu-v5p-slice",
            "v6e": "tpu-v6e-slice",
            "7x": "tpu7x",
        }
        return {
            "cloud.google.com/gke-tpu-accelerator": tpus[self.chip.name],
            "cloud.google.com/gke-tpu-topology": self.shape_text,
        }

    @property
    def pjrt(self) -> tuple[str, dict[str, object]]:
        """Name and options for `jax.experimental.topologies.get_topology_desc`.

        For GPUs it also needs a `target_config`, the description of one.
        """
        if self.chip.platform == "cuda":
            gpus, machines = (*self.shape, 1)[:2]
            return self.chip.name, {"topology": f"1x{machines}x{gpus}"}
        options: dict[str, object] = {"num_slices": self.slices} if self.slices > 1 else {}
        if self.shape == (1, 1):
            options["chips_per_host_bounds"] = (1, 1, 1)
        prefix = "tpu7x" if self.chip.name == "7x" else self.chip.name
        return f"{prefix}:{self.shape_text}", options


@lru_cache
def shapes(name: str) -> tuple[tuple[int, ...], ...]:
    """Every slice of a TPU, smallest first; the machines of a GPU, without sets of machines."""
    chip = CHIPS[name]
    if chip.torus is None:
        return tuple((count,) for count in GPUS)
    if len(chip.torus) == 2:
        return SQUARES
    most = prod(chip.torus)
    cubes = [
        (a, b, c)
        for a in range(4, LONGEST + 1, 4)
        for b in range(a, min(LONGEST, most // a // a) + 1, 4)
        for c in range(b, min(LONGEST, most // (a * b)) + 1, 4)
    ]
    return (*SMALL, *sorted(cubes, key=lambda shape: (prod(shape), shape)))


def _exists(chip: Chip, shape: tuple[int, ...]) -> bool:
    if chip.platform == "cuda" and len(shape) == 2:
        return shape[0] == max(GPUS) and shape[1] > 1
    return shape in shapes(chip.name)


def _rule(chip: Chip) -> str:
    if chip.torus is None:
        return f"{', '.join(map(str, GPUS))}, or {max(GPUS)}xMACHINES from 2 machines on"
    if len(chip.torus) == 2:
        return ", ".join(_text(shape) for shape in SQUARES)
    small = ", ".join(_text(shape) for shape in SMALL)
    return f"{small}, or ascending multiples of 4 with at most {prod(chip.torus)} chips"


def _first(chip: Chip) -> tuple[str, ...]:
    return tuple(f"{chip.name}:{_text(shape)}" for shape in shapes(chip.name)[:3])


def _near(chip: Chip, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Shapes that exist, nearest in their number of chips and then in their sizes."""
    known = [*shapes(chip.name)]
    if chip.torus is None and len(shape) > 1:
        known.append((max(GPUS), max(shape[1], 2)))
    wanted = sorted(shape)

    def distance(other: tuple[int, ...]) -> tuple[float, float]:
        sizes = zip(sorted(other), wanted, strict=False)
        return abs(log(prod(other) / prod(shape))), sum(abs(log(a / b)) for a, b in sizes)

    return tuple(f"{chip.name}:{_text(s)}" for s in sorted(known, key=distance)[:3])


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))

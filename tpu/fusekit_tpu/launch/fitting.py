"""Whether an experiment fits a topology: its mesh the devices, its batches the mesh."""

from math import prod
from typing import get_args

from fusekit.config.mesh import Axis
from fusekit.config.spec import Experiment
from fusekit.config.stages import staged
from fusekit.errors import ConfigError, LayoutError, Problem
from fusekit_tpu.topology import Topology

AXES: tuple[str, ...] = get_args(Axis)


def sized(experiment: Experiment, topology: Topology) -> dict[str, int]:
    """Sizes of the mesh axes that the experiment names; -1 is what the others leave.

    Raises `ConfigError` if the mesh has another number of devices than the topology, or its slices
    do not divide the axis that is to cross them.
    """
    from fusekit.layout import filled

    named = {a: getattr(experiment.mesh, a) for a in AXES if getattr(experiment.mesh, a) != 1}
    fixed = prod(size for size in named.values() if size != -1)
    rest = [axis for axis, size in named.items() if size == -1]
    try:
        sizes = filled(named, topology.devices, topology.block)
    except LayoutError:
        sizes = None
    if sizes is not None and prod(sizes.values()) == topology.devices:
        _check_slices(experiment.mesh.slices, sizes, topology.slices)
        return sizes
    said = " x ".join(f"{a} {'the rest' if s == -1 else s}" for a, s in named.items()) or "1"
    many = f"{'a multiple of ' if rest else ''}{fixed} device{'s' if fixed > 1 else ''}"
    problem = Problem(
        ("mesh",),
        f"the mesh is not of the size of {topology}",
        found=f"{said}: {many}",
        expected=f"{topology.devices} devices; --set mesh.data=-1 takes what is left",
    )
    raise ConfigError([problem])


def _check_slices(axis: str, sizes: dict[str, int], slices: int) -> None:
    size = sizes.get(axis, 1)
    if size % slices:
        message = f"the axis {axis} crosses {slices} slices, which do not divide it"
        due = f"a multiple of {slices}; mesh.slices names the axis that crosses"
        raise ConfigError([Problem(("mesh", axis), message, found=str(size), expected=due)])


def check_batches(experiment: Experiment, sizes: dict[str, int]) -> None:
    """Raises `ConfigError` for every stage whose batch, or a microbatch of it, does not divide over
    the mesh."""
    from fusekit.layout import ACTIVATIONS

    rule = experiment.mesh.activations.get("batch", ACTIVATIONS["batch"]) or ()
    axes = (rule,) if isinstance(rule, str) else rule
    over, micro = prod(sizes.get(axis, 1) for axis in axes), experiment.mesh.microbatches
    parts = over * micro
    stages = staged(experiment) if experiment.stages else {"": experiment}
    problems = []
    for name, one in stages.items():
        path = ("stages", name, "batch") if experiment.stages else ("train", "batch")
        if one.train.batch % parts:
            each = f"into {micro} microbatches, each " if micro > 1 else ""
            message = f"the batch does not divide {each}over {over} parts of the mesh"
            found, due = str(one.train.batch), f"a multiple of {parts}"
            problems.append(Problem(path, message, found=found, expected=due))
    if problems:
        raise ConfigError(problems)

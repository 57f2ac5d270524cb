"""Whether what `mesh` asks for by name can run: told of a config, before anything is made."""

from collections.abc import Iterable, Sequence

from fusekit.backends import Devices, StandIn, backends
from fusekit.chosen import Chosen
from fusekit.config.sections import LOSSES
from fusekit.config.tree import Path
from fusekit.errors import ConfigError, Problem
from fusekit.graph.graph import Graph, Locate, in_order

ANYWHERE = (
    Devices(StandIn("tpu", "TPU v5 lite")),
    Devices(StandIn("gpu", "NVIDIA H100", "9.0")),
)
"""Where it is not known on what a config will run: what has a kernel here has one somewhere."""
DUE = "auto, which takes kernels where they can run and are ahead"


def check_kernels(
    graphs: Iterable[Graph], locate: Locate | None = None, places: Sequence[Devices] = ANYWHERE
) -> None:
    """Raises `ConfigError` for what `mesh` asks for and none of the places can run.

    Of a component named in `mesh.components` every operation must be able to; of `mesh.kernel:
    pallas` one of all. Traces the steps; costs nothing where nothing is asked for.

    Args:
      graphs: of all stages of one experiment.
      locate: gives positions.
      places: devices that it may run on.
    """
    graphs = list(graphs)
    if not graphs:
        return
    mesh = graphs[0].experiment.mesh
    known = {*graphs[0].nodes, *(f"{LOSSES}{name}" for name in graphs[0].experiment.losses)}
    wanted = {name: own.kernel for name, own in mesh.components.items() if name in known}
    if mesh.kernel != "pallas" and not {*wanted.values()} - {None, "auto"}:
        return
    each = [[c for graph in graphs for c in backends(graph, place)] for place in places]
    problems: list[Problem] = []
    for name, kernel in wanted.items():
        mine = [[c for c in found if mesh.own(c.component)[0] == name] for found in each]
        reasons = [_lack(found, str(kernel)) for found in mine]
        if kernel not in (None, "auto") and all(reasons):
            problems.append(_problem(("mesh", "components", name, "kernel"), kernel, reasons))
    others = [[c for c in found if not mesh.kernel_of(c.component)[1]] for found in each]
    if mesh.kernel == "pallas" and not any(c.kernels for found in others for c in found):
        reasons = [_lack(found, mesh.kernel) for found in others]
        problems.append(_problem(("mesh", "kernel"), mesh.kernel, reasons))
    if problems:
        raise ConfigError(in_order(problems, locate))


def _lack(found: Sequence[Chosen], kernel: str) -> str:
    """Why a component does not get what is asked for; empty: it does."""
    if not found:
        return "nothing that it runs has a kernel" if kernel == "pallas" else ""
    return "; ".join(dict.fromkeys(f"{c.operation}: {c.unmet}" for c in found if c.unmet))


def _problem(path: Path, kernel: str, reasons: Iterable[str]) -> Problem:
    told = "; or ".join(dict.fromkeys(reasons))
    return Problem(path, f"`kernel: {kernel}` cannot run: {told}", kernel, DUE)

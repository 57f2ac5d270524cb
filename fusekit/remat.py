"""What layers keep for the backward pass, and what is computed again there.

- `none`: everything is kept, but no scores of attention: its gradient makes them again.
- `full`: what enters a layer.
- `dots`: that, and products that are not in batches: of activations with weights, not of queries
  with keys, whose size goes with the square of the length.
- `names`: what enters, and what the layers name (`StackSpec.remat_names`), or of it what
  `mesh.saved` names.
- `offload`: the same, but what is named waits in the memory of the host.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import jax

from fusekit.component import Remat, StackSpec
from fusekit.errors import Problem, nearest
from fusekit.graph.graph import Graph
from fusekit.graph.node import root

LEAST_KEPT: tuple[Remat, ...] = ("full", "offload", "names", "dots", "none")
"""In the order of what is kept on the device, least first."""
NAMED = ("names", "offload")


def recomputed(function: Callable[..., Any], remat: Remat, names: Collection[str]) -> Any:
    """A function that keeps for its backward pass what a policy says.

    Args:
      function: to be differentiated; what it closes over is, too.
      remat: the policy.
      names: of `jax.ad_checkpoint.checkpoint_name`: what `names` and `offload` keep.
    """
    policies = jax.checkpoint_policies
    match remat:
        case "none":
            return function
        case "dots":
            policy: Any = policies.checkpoint_dots_with_no_batch_dims
        case "names":
            policy = policies.save_only_these_names(*names)
        case "offload":
            policy = policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=list(names),
                offload_src="device",
                offload_dst="pinned_host",
            )
        case _:
            policy = None
    return jax.checkpoint(function, policy=policy)


def least(found: Iterable[Remat]) -> Remat:
    """Of layers that run as one piece, the policy that keeps least; `none` of none."""
    given = set(found)
    for remat in LEAST_KEPT:
        if remat in given:
            return remat
    return "none"


def remat_of(graph: Graph, name: str) -> Remat:
    """How a node's layers are computed again: as `mesh.components` says of it, or else as it says
    itself, or else as the mesh does."""
    node, mesh = root(graph.nodes, graph.nodes[name]), graph.experiment.mesh
    if not isinstance(node.spec, StackSpec):
        return "none"
    own = mesh.components.get(node.name)
    return (own and own.remat) or node.spec.remat or mesh.remat


def offloads(graph: Graph) -> bool:
    """Whether what some layers keep waits in the memory of the host."""
    return any(remat_of(graph, name) == "offload" for name in graph.nodes)


def saved(graph: Graph) -> tuple[str, ...]:
    """The names that `names` and `offload` keep."""
    chosen = graph.experiment.mesh.saved
    return tuple(sorted(_named(graph))) if chosen is None else chosen


def check_remat(graph: Graph) -> Iterator[Problem]:
    """Names that no layer gives, and policies of names for stacks that give none."""
    known = _named(graph)
    for number, name in enumerate(graph.experiment.mesh.saved or ()):
        if name not in known:
            due = f"one of {', '.join(sorted(known))}" if known else "stacks whose layers name some"
            message, close = "no layer names anything so", nearest(name, known)
            yield Problem(("mesh", "saved", number), message, name, due, close)
    for node in graph.nodes.values():
        spec, own = node.spec, graph.experiment.mesh.components.get(node.name)
        if node.repeat is not None or not isinstance(spec, StackSpec) or spec.remat_names:
            continue
        for path, remat in (
            (node.path, spec.remat),
            (("mesh", "components", node.name), own and own.remat),
        ):
            if remat in NAMED:
                message = f"the layers of {spec.type} name nothing that could be kept"
                yield Problem((*path, "remat"), message, remat, "one of none, full, dots")


def _named(graph: Graph) -> set[str]:
    stacks = [n.spec for n in graph.nodes.values() if isinstance(n.spec, StackSpec)]
    return {name for spec in stacks for name in spec.remat_names}

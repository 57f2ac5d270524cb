"""Sublayers that operators replace for all tokens of a layer, which holds no weights for them."""

from fusekit.component import OperatorSpec
from fusekit.graph.graph import Graph
from fusekit.graph.node import Node, root

Layer = tuple[str, int]


def replaced(graph: Graph) -> dict[Layer, frozenset[str]]:
    """The sublayers by declared stack and layer.

    Only what is replaced in every run of the layer, in those of parts too, and by operators that no
    stage leaves away: with `keep: true`, which stages give to those that any of them leaves away,
    an operator keeps what it replaces.
    """
    acting: dict[Layer, list[Node]] = {}
    for node in graph.nodes.values():
        for place in () if node.idle else node.places:
            for layer in place.stacks:
                acting.setdefault(layer, []).append(node)
    left = {name for stage in graph.experiment.stages.values() for name in stage.without}
    found: dict[Layer, frozenset[str]] = {}
    for kind, name, index in graph.inputs_of:
        if kind != "layer":
            continue
        stream = graph.inputs_of[kind, name, index]["stream"]
        operators = acting.get((name, index), [])
        here: frozenset[str] = frozenset()
        for node in operators:
            spec = node.spec
            assert isinstance(spec, OperatorSpec)
            if spec.keep or not spec.replaces or root(graph.nodes, node).name in left:
                continue
            others = (one.spec for one in operators if one is not node)
            extra = any("tokens" in getattr(other, "needs", ()) for other in others)
            if spec.covers(stream, extra=extra):
                here |= spec.replaces
        layer = (root(graph.nodes, graph.nodes[name]).name, index)
        found[layer] = found.get(layer, here) & here
    return found

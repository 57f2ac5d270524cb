"""Nodes that answer: heads, and fusions that combine what heads say."""

from typing import Literal

from fusekit.graph.graph import Graph

Link = Literal["none", "softmax", "sigmoid"]


def answering(graph: Graph) -> tuple[str, ...]:
    """Names of all declared nodes that answer, heads first."""
    nodes = graph.nodes.items()
    fused = [n for n, node in nodes if node.role == "fusion" and node.repeat is None]
    return (*graph.heads, *(n for n in fused if is_answer(graph, n)))


def is_answer(graph: Graph, name: str) -> bool:
    """Whether a node, a part's too, answers."""
    node = graph.nodes[name]
    return node.role == "head" or (node.role == "fusion" and node.spec.link != "none")


def link_of(graph: Graph, name: str) -> Link:
    """What makes probabilities of a node's values; of a combination, what makes them of all that
    it combines, and `none` where these differ."""
    node = graph.nodes[name]
    link = node.spec.link
    if link != "inputs":
        return link
    found: set[Link] = {
        link_of(graph, r.key.node) for wire in node.wires.values() for r in wire.reads
    }
    return found.pop() if len(found) == 1 else "none"

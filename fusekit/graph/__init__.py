"""The graph: from a checked experiment to an order of layers. Plain data, no arrays."""

from fusekit.graph.graph import Graph, resolve

__all__ = ["Graph", "resolve"]

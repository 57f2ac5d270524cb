"""Weights that several points share have to fit each of them."""

from collections.abc import Container, Iterator, Mapping

from fusekit.component import HeadSpec
from fusekit.errors import Problem
from fusekit.graph.node import Key, Node
from fusekit.stream import Signature

Inputs = Mapping[tuple[str, str, int], Mapping[str, Signature]]
"""The signatures that came in, by (event kind, node, index)."""


def unequal(nodes: Mapping[str, Node], inputs: Inputs, known: Container[Key]) -> Iterator[Problem]:
    """Heads whose points differ in width: a head answers each with the same weights.

    `known` are the values with a signature: of a point with another fault nothing is said.
    """
    for name, node in nodes.items():
        for role, wire in node.wires.items() if isinstance(node.spec, HeadSpec) else ():
            widths = {
                read.text: _width(inputs["call", name, point][role])
                for point, read in enumerate(wire.reads)
                if Key("point", name, point) in known
            }
            if len(set(widths.values())) > 1:
                yield Problem(
                    (*node.path, *wire.field),
                    "a head answers each point with the same weights, and these differ in width",
                    found=", ".join(f"{text} {width}" for text, width in widths.items()),
                    expected="points of one width, or a head for each",
                )


def _width(signature: Signature) -> int:
    """Size of the last axis, if it is one of features; numbers and codes count as one."""
    axis, size = signature.sizes[-1] if signature.sizes else ("", 1)
    return 1 if axis == "time" else size

"""Names of nodes on what they compute: for costs by node, and for whoever reads a profile."""

from contextlib import AbstractContextManager

import jax

MARK = "fusekit-node="


def node_scope(node: str) -> AbstractContextManager[None]:
    """What is traced within belongs to the node."""
    return jax.named_scope(MARK + node)

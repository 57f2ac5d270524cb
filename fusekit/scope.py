"""Names of nodes on what they compute: for costs by node, and for whoever reads a profile."""

from contextlib import AbstractContextManager
from typing import Any

import jax

MARK = "fusekit-node="
SELDOM = "fusekit-seldom"
"""A scope of conditions that hold in unusual steps only: plans count them as not taken."""

WORK = "fusekit-flops="


def work_scope(flops: int) -> AbstractContextManager[Any]:
    """A loop that is traced within has so many FLOPs of use: it may run more, on rows that are
    filled up."""
    return jax.named_scope(f"{WORK}{flops}")


def node_scope(node: str) -> AbstractContextManager[Any]:
    """What is traced within belongs to the node."""
    return jax.named_scope(MARK + node)

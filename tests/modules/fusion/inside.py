"""Holds an operator in one block a stack against NumPy: values, gradients, absence, padding."""

from collections.abc import Sequence
from typing import Any

from fusekit.stream import Signature
from tests.modules.fusion.harness import (
    Case,
    compare_garbage,
    compare_gradients,
    compare_values,
    inputs_of,
    pad,
    patterns,
)
from tests.modules.fusion.lockstep import Lockstep

HIDDEN = 5
"""Width inside the feed-forward of the blocks of `Lockstep`."""


def entering(stream: Signature) -> Signature:
    """A running stream of such a block, which tells what it projects."""
    width = stream.width
    sizes = {f"attention.{n}": (width, width) for n in ("query", "key", "value", "out")}
    sizes |= {"mlp.up": (width, HIDDEN), "mlp.down": (HIDDEN, width)}
    return stream.with_(projections=tuple(sizes.items()))


def hold(
    operator: Any, streams: Sequence[Signature], reference: Any, *, reads: int = 0, unused="$^"
):
    """In every pattern of absence, with padding of every length, in float64 and float32. The last
    `reads` streams are what the operator reads besides."""
    count = len(streams) - reads
    signatures = [
        (entering(s) if k < count else s).with_(optional=True) for k, s in enumerate(streams)
    ]
    inputs = {f"m{k}": s for k, s in enumerate(signatures)}
    case = Case(Lockstep(operator, depth=1, places=(0,), reads=reads), inputs)
    presence, ports = patterns(len(inputs)), tuple(inputs)[:count]
    arrays = inputs_of(case, len(presence))
    pad(case, len(presence))
    compare_values(case, arrays, presence, reference, ports)
    compare_gradients(case, arrays, presence, reference, ports, unused)
    compare_garbage(case, arrays, presence, ports)
    return case

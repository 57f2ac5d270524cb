"""Values that a head leaves unmade: only losses read them, and these need not see them.

A head over a large vocabulary has more logits than anything else in a training step. Where all that
reads a head's values in a step are losses that can do with features and weights (`LossSpec.fuses`),
the head is asked by its method `deferred` in place of being called, and may give these. Anyone else
who reads them, an operator, another loss, a metric, a prediction, gets them made.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import jax
from jaxtyping import Array, Bool, Float

from fusekit.component import HeadSpec, LossSpec
from fusekit.graph.node import Key
from fusekit.graph.recompute import events_of
from fusekit.parameter import Axes
from fusekit.stream import Stream

if TYPE_CHECKING:
    from fusekit.model import FusionModel


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["features", "kernel", "bias"],
    meta_fields=["axes", "node", "asked", "named"],
)
@dataclass(frozen=True)
class Deferred:
    """What stands for the values `features @ kernel + bias`.

    Args:
      features: of each sample or position, with their mask and presence, which are the values' too.
      kernel: `[d, v]`, to be multiplied in the dtype of the features.
      bias: `[v]`, or `None`.
      axes: logical axes of the kernel.
      node: whose values they are; its layout is that of the kernel.
      asked, named: `Context.kernel` and `Context.named` of this node.
    """

    features: Stream
    kernel: Float[Array, "d v"]
    bias: Float[Array, "v"] | None
    axes: Axes
    node: str
    asked: str = "auto"
    named: bool = True

    @property
    def mask(self) -> Bool[Array, "b n"] | None:
        return self.features.mask

    @property
    def presence(self) -> Bool[Array, "b"] | None:
        return self.features.presence


def deferrable(
    model: "FusionModel", wanted: Collection[Key], names: Collection[str] | None
) -> frozenset[Key]:
    """The values of heads that nothing reads but the losses of these names (`None`: all), each of
    which can do without them. `wanted` are the values that the losses read."""
    graph = model.graph
    without, made = set[Key](), set[Key]()
    for name, objective in graph.losses.items():
        spec = objective.spec
        if (names is not None and name not in names) or not isinstance(spec, LossSpec):
            continue
        for role, wire in objective.wires.items():
            for read in wire.reads:
                fused = role in spec.fuses() and not read.ports
                (without if fused else made).add(read.key)
    for item in model.needed(wanted):
        made |= {read.key for event in events_of(item) for _, read in event.reads}
    return frozenset(key for key in without - made if _defers(graph.nodes[key.node].spec))


def _defers(spec: object) -> bool:
    return isinstance(spec, HeadSpec) and spec.defers

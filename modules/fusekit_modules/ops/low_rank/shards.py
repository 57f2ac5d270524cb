"""A low-rank product over a mesh: each device has its rows and its features of the result.

Forward, nothing is sent. Backward, gradients are added up once, after all ranks: left to the
partitioner, those by vectors were summed over devices rank by rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from fusekit.layout import Layout
from fusekit_modules.ops.low_rank.form import Factor, Given


@dataclass(frozen=True)
class Shards:
    """Mesh axes that cut the rows, and those that cut the result's features."""

    mesh: Mesh
    batch: tuple[str, ...]
    features: tuple[str, ...]

    @staticmethod
    def of(layout: Layout, given: Given) -> "Shards | None":
        """What a layout says of activations and of weights' features, where it divides; `fsdp`
        only stores weights, which are whole where they are used. `None`: one device."""
        if layout.size == 1:
            return None
        taken: set[str] = {"fsdp"}

        def fitting(rule: str | tuple[str, ...] | None, size: int, not_: set[str]) -> tuple:
            named = (rule,) if isinstance(rule, str) else tuple(rule or ())
            names = tuple(n for n in named if n not in not_ and layout.mesh.shape[n] > 1)
            return () if size % prod(layout.mesh.shape[name] for name in names) else names

        _, _, rows, width = given.sizes
        batch = fitting(layout.activations.get("batch"), rows, set())
        taken.update(batch)
        return Shards(layout.mesh, batch, fitting(layout.params.get("features"), width, taken))

    def forward(self, call: Callable[..., Any], given: Given) -> Array:
        """`call(given)` of a backend, on every device."""
        return self._mapped(call, (self._given(given),), self._result)(given)

    def backward(self, call: Callable[..., Any], given: Given, grad: Array) -> Given:
        """`call(given, grad)` of a backend, on every device, and sums of what it gives."""

        def local(given: Given, grad: Array) -> Given:
            found = call(given, grad)
            rows, features = self.batch, self.features
            return Given(
                tuple(_summed(vector, features) for vector in found.vectors),
                jax.tree.map(lambda leaf: _summed(leaf, rows), found.factors),
                _summed(found.mix, rows + features),
                _summed(found.bias, rows),
            )

        specs = self._given(given)
        return self._mapped(local, (specs, self._result), specs)(given, grad)

    @property
    def _result(self) -> P:
        return P(self.batch, self.features)

    def _given(self, given: Given) -> Given:
        """Where everything lives."""
        by_rank: Any = (P(None, self.features), P(None, None, self.features))
        factor: Any = Factor(*by_rank)
        count = len(given.vectors)
        return Given((P(self.batch),) * count, (factor,) * count, P(), P(self.features))

    def _mapped(self, call: Callable[..., Any], ins: Any, outs: Any) -> Callable[..., Any]:
        return jax.shard_map(call, mesh=self.mesh, in_specs=ins, out_specs=outs, check_vma=False)


def _summed(array: Array, axes: tuple[str, ...]) -> Array:
    return lax.psum(array, axes) if axes else array

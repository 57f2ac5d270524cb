"""Over a mesh: each device does its rows with its part of the vocabulary, and logs are merged.

Neither logits nor, over the vocabulary, weights are gathered. Of a row, two numbers cross the axis
that splits the vocabulary forward, and the gradient of its features backward; the gradient of the
kernel is summed over the devices that have other rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from fusekit.layout import Layout
from fusekit.parameter import Axes
from fusekit_modules.ops.linear_cross_entropy.given import Ends, Linear


@dataclass(frozen=True)
class Shards:
    """Mesh axes that cut rows `[b]` or `[b, t]`, and those that cut the vocabulary."""

    mesh: Mesh
    rows: P
    vocabulary: Any

    @staticmethod
    def of(
        layout: Layout | None, shape: tuple[int, ...], sizes: Any, axes: Axes
    ) -> "Shards | None":
        """For rows of this shape and a kernel of these sizes and logical axes. `None`: one
        device."""
        if layout is None or layout.size == 1:
            return None
        named = ("batch", "time", *[None] * len(shape))[: len(shape)]
        rows = layout.of_stream(shape, named).spec
        vocabulary = layout.of_param(sizes, (None, axes[-1])).spec[1]
        taken = {name for part in rows for name in names(part)}
        return Shards(layout.mesh, rows, None if taken & set(names(vocabulary)) else vocabulary)

    @property
    def over(self) -> tuple[str, ...]:
        """The axes that cut rows, in one."""
        return tuple(name for part in self.rows for name in names(part))

    def forward(self, call: Callable[..., Ends], given: Linear, target: Array) -> Ends:
        """`call(given, target)` of a backend, on every device."""

        def local(given: Linear, target: Array) -> Ends:
            ends = call(_flat(given), self._own(target.reshape(-1), given))
            return _shaped(self._merged(*ends), target.shape)

        return self._mapped(local, (self.rows, self.rows), given, target)

    def backward(
        self, call: Callable[..., Linear], given: Linear, target: Array, total: Array, grads: Ends
    ) -> Linear:
        """`call(given, target, total, grads)` of a backend, on every device."""

        def local(given: Linear, target: Array, total: Array, grads: Ends) -> Linear:
            own = self._own(target.reshape(-1), given)
            found = call(_flat(given), own, *_shaped((total, grads), (-1,)))
            features = self._sum(names(self.vocabulary), found.features)
            kernel, bias = (self._sum(self.over, part) for part in found[1:])
            return Linear(features.reshape(given.features.shape), kernel, bias)

        return self._mapped(local, self._linear(given), given, target, total, grads)

    def _linear(self, given: Linear) -> Any:
        bias = None if given.bias is None else P(self.vocabulary)
        return Linear(P(*self.rows, None), P(None, self.vocabulary), bias)

    def _mapped(self, local: Callable[..., Any], outs: Any, given: Linear, *more: Any) -> Any:
        ins = (self._linear(given), *jax.tree.map(lambda _: self.rows, more))
        call = jax.shard_map(local, mesh=self.mesh, in_specs=ins, out_specs=outs, check_vma=False)
        return call(given, *more)

    def _own(self, target: Int[Array, "n"], given: Linear) -> Int[Array, "n"]:
        """Targets as numbers of this device's part of the vocabulary, in which others are not."""
        here = names(self.vocabulary)
        return target - lax.axis_index(here) * given.kernel.shape[1] if here else target

    def _merged(self, total: Array, own: Array) -> Ends:
        """Logs of sums over the whole vocabulary from those over its parts, and the one logit."""
        axes = names(self.vocabulary)
        if not axes:
            return total, own
        most = lax.pmax(total, axes)
        return most + jnp.log(lax.psum(jnp.exp(total - most), axes)), lax.psum(own, axes)

    @staticmethod
    def _sum(axes: tuple[str, ...], array: Any) -> Any:
        return lax.psum(array, axes) if axes and array is not None else array


def names(axes: Any) -> tuple[str, ...]:
    """A part of a partition spec as names of mesh axes."""
    return () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)


def _flat(given: Linear) -> Linear:
    return given._replace(features=given.features.reshape(-1, given.features.shape[-1]))


def _shaped(arrays: Any, shape: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda array: array.reshape(shape), arrays)

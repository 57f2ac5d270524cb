"""The selective scan over a mesh: each device works on its own examples and channels.

The partitioner cannot cut a kernel; the passes below run it inside `jax.shard_map`, time whole.
Only gradients are sent: those of B and C, which all channels share, and of `a`, which all examples
do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from fusekit.layout import Layout
from fusekit_modules.ops.selective_scan.form import Given, Results


@dataclass(frozen=True)
class Shards:
    """Mesh axes that cut the examples, and those that cut the channels."""

    mesh: Mesh
    batch: tuple[str, ...]
    channels: tuple[str, ...]

    @staticmethod
    def of(layout: Layout, given: Given) -> "Shards | None":
        """What a layout says of activations, and of hidden channels (`mlp`), where it divides.
        `None`: one device."""
        if layout.size == 1:
            return None

        def fitting(rule: str | tuple[str, ...] | None, size: int) -> tuple[str, ...]:
            names = (rule,) if isinstance(rule, str) else tuple(rule or ())
            return () if size % prod(layout.mesh.shape[name] for name in names) else names

        batch, _, channels = given.x.shape
        rows = fitting(layout.activations.get("batch"), batch)
        return Shards(layout.mesh, rows, fitting(layout.params.get("mlp"), channels))

    def forward(self, call: Callable[[Given], Results], given: Given) -> Results:
        """`call(given)` of a backend, on every device."""
        outs: Any = (self._tokens, self._tokens, P(self.batch, None, None, self.channels))
        return self._mapped(call, (self._specs(given),), Results(*outs))(given)

    def backward(self, call: Callable[..., Given], given: Given, kept: Any, grads: Any) -> Given:
        """`call(given, kept, grads)` of a backend, on every device."""

        def run(*args: Any) -> Given:
            found = call(*args)
            into, out = jax.lax.psum((found.into, found.out), self.channels)
            return found._replace(a=jax.lax.psum(found.a, self.batch), into=into, out=out)

        specs = self._specs(given)
        kinds = (specs, P(self.batch, None, None, self.channels), (self._tokens, self._tokens))
        return self._mapped(run, kinds, specs._replace(marks=None))(given, kept, grads)

    @property
    def _tokens(self) -> P:
        """Of tokens, and of states, `[b, n, d]`."""
        return P(self.batch, None, self.channels)

    def _specs(self, given: Given) -> Given:
        tokens, rows = self._tokens, P(self.batch)
        marks = None if given.marks is None else rows
        specs: Any = (tokens, tokens, P(None, self.channels), rows, rows, marks, tokens)
        return Given(*specs)

    def _mapped(self, call: Callable[..., Any], ins: Any, outs: Any) -> Callable[..., Any]:
        return jax.shard_map(call, mesh=self.mesh, in_specs=ins, out_specs=outs, check_vma=False)

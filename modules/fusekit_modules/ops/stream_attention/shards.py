"""Stream attention over a mesh: each device works on its own examples and heads, by itself.

The partitioner cannot cut a kernel; the passes below run it inside `jax.shard_map`. Nothing is
sent, as examples and heads do not meet.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from fusekit.layout import Layout
from fusekit_modules.ops.stream_attention.form import Form, Queries, Source


@dataclass(frozen=True)
class Shards:
    """Mesh axes that cut the examples, and those that cut the heads."""

    mesh: Mesh
    batch: tuple[str, ...]
    heads: tuple[str, ...]

    @staticmethod
    def of(layout: Layout, form: Form, batch: int) -> "Shards | None":
        """What a layout says of activations and of heads, where it divides. `None`: one device."""
        if layout.size == 1:
            return None

        def fitting(rule: str | tuple[str, ...] | None, size: int) -> tuple[str, ...]:
            names = (rule,) if isinstance(rule, str) else tuple(rule or ())
            whole = size % prod(layout.mesh.shape[name] for name in names)
            return () if whole else names

        return Shards(
            layout.mesh,
            fitting(layout.activations.get("batch"), batch),
            fitting(layout.params.get("heads"), form.heads),
        )

    def forward(self, call: Callable[..., Any], form: Form, queries: Any, sources: Any) -> Any:
        """`call(form, queries, sources)` of a backend, on every device."""
        outs = [(self._tokens, self._logs)] * len(queries)
        return self._mapped(call, form, (queries, sources), outs)

    def backward(self, call: Callable[..., Any], form: Form, *given: Any) -> Any:
        """`call(form, queries, sources, results, grads)` of a backend, on every device."""
        outs = [self._tokens] * len(given[0]), [(self._tokens, self._tokens)] * len(given[1])
        return self._mapped(call, form, given, outs)

    @property
    def _tokens(self) -> P:
        return P(self.batch, None, self.heads)

    @property
    def _logs(self) -> P:
        return P(self.batch, self.heads)

    def _mapped(self, call: Callable[..., Any], form: Form, given: Any, outs: Any) -> Any:
        """Given are streams and sources, and then may be results and their gradients."""
        tokens: Any = self._tokens
        mask: Any = P(self.batch)
        streams, sources = Queries(tokens, mask, mask), Source(tokens, tokens, mask, mask)
        kinds = (streams, sources, (tokens, self._logs), tokens)
        own = replace(form, heads=form.heads // prod(self.mesh.shape[a] for a in self.heads))
        return jax.shard_map(
            lambda *arrays: call(own, *arrays),
            mesh=self.mesh,
            in_specs=tuple([kind] * len(part) for kind, part in zip(kinds, given, strict=False)),
            out_specs=outs,
            check_vma=False,
        )(*(list(part) for part in given))

"""The rule of masking that `attend` makes, from labels, items, segments and positions alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from fusekit.stream import Stream, concatenate, label_id
from fusekit_modules.layers.attend import Attend, Clause, Rules, by_query


def as_added(stream: Stream, own: int = 0) -> Stream:
    """The stream with its tokens from `own` on marked as no data, as readout tokens are."""
    at, spans = 0, []
    for span in stream.spans:
        spans.append(replace(span, readout=span.readout or at >= own))
        at += span.size
    return stream.with_(spans=tuple(spans))


def described(streams: Sequence[Stream]) -> Stream:
    """What rules see of streams side by side: descriptions of the tokens, without contents."""
    empty = [s.with_(values=jnp.zeros((s.batch, s.length, 0))) for s in streams]
    return empty[0] if len(empty) == 1 else concatenate(empty)


class Tokens(NamedTuple):
    """Descriptions of tokens, shaped to meet those of others; known when traced if static."""

    label: Any
    item: Any
    segment: Any
    position: Any
    data: Any
    index: Any

    @staticmethod
    def of(stream: Stream, axis: int) -> "Tokens":
        """A new axis stands at `axis`: -1 for queries, -2 for keys."""
        rows = [(s, i) for s in stream.spans for i in range(s.size)]
        told = {
            "label": [label_id(s.label) for s, _ in rows],
            "item": [i * s.items // s.size for s, i in rows],
            "segment": [0] * len(rows),
            "position": [i for _, i in rows],
        }
        found = [getattr(stream, name) for name in told]
        columns = [
            np.asarray(own, "int32") if array is None else array
            for own, array in zip(told.values(), found, strict=True)
        ]
        data = np.asarray([not s.readout for s, _ in rows], bool)
        columns += [data, np.arange(len(rows))]
        return Tokens(*(_beside(column, axis) for column in columns))


def _beside(column: Any, axis: int) -> Any:
    known = isinstance(column, np.ndarray)
    return np.expand_dims(column, axis) if known else jnp.expand_dims(column, axis)


@dataclass(frozen=True)
class Rule:
    """A `fusekit.layered.MaskRule`: who may read whom, `[*b, q, k]`, by an `attend`.

    Tokens whose spans are marked as readouts are no data: as queries they see all; as keys
    `causal`, `item` and `latest` leave them out, `all` and their label do not. Tokens of different
    segments never see one another. Labels that a mapping by query leaves out see nothing. Labels
    that vary are among those of the spans.

    Args:
      rules: what to hold to.
      own: whether the first keys are the queries themselves. If so, keys after those are ruled
        where `others` has their label, and else seen by all: they are somebody else's matter.
      others: see `own`.
    """

    rules: Rules
    own: bool = True
    others: tuple[str, ...] = ()

    @staticmethod
    def of(attend: Attend, *, own: bool = True, others: tuple[str, ...] = ()) -> "Rule":
        return Rule(by_query(attend), own, others)

    def __call__(self, queries: Stream, keys: Stream) -> Bool[Array, "*b q k"]:
        q, k = Tokens.of(queries, -1), Tokens.of(keys, -2)
        seen = ~q.data
        for label, clauses in self.rules:
            mine = q.data if label is None else q.data & (q.label == label_id(label))
            for clause in clauses:
                seen = seen | (mine & self._allowed(clause, q, k, keys))
        if self.own:
            ruled = k.index < queries.length
            for label in self.others:
                ruled = ruled | (k.label == label_id(label))
            seen = seen | ~ruled
        return jnp.asarray(seen & (q.segment == k.segment))

    def _allowed(self, clause: Clause, q: Tokens, k: Tokens, keys: Stream) -> Any:
        """Where the clause lets a query read a key, whatever the query's label."""
        there = True if clause.label is None else k.label == label_id(clause.label)
        if clause.word in ("all", "none"):
            return there & (clause.word == "all")
        if clause.word == "causal":
            later = (k.index > q.index) & (k.index < q.index.size) & self.own
            before = (k.position < q.position) | ((k.position == q.position) & ~later)
            return there & k.data & before
        if clause.word == "item":
            return there & k.data & (k.label == q.label) & (k.item == q.item)
        found = [clause.label] if clause.label else [span.label for span in keys.spans]
        return _any(_latest(label, q, k, keys.valid()) for label in dict.fromkeys(found))


def _any(masks: Iterable[Any]) -> Any:
    found: Any = np.zeros((1, 1), bool)
    for mask in masks:
        found = found | mask
    return found


def _latest(label: str, q: Tokens, k: Tokens, valid: Array | None) -> Any:
    """Of the valid keys of a label, the whole item of the one that stands last by position at or
    before the query; of equal positions the greatest item."""
    mine = k.data & (k.label == label_id(label))
    before = mine & (k.position <= q.position) & (k.segment == q.segment)
    if valid is not None:
        before = before & valid[:, None, :]
    low = np.iinfo("int32").min
    last = jnp.max(jnp.where(before, k.position, low), axis=-1, keepdims=True)
    final = before & (k.position == last)
    item = jnp.max(jnp.where(final, k.item, low), axis=-1, keepdims=True)
    return mine & (k.item == item) & (k.segment == q.segment) & jnp.any(before, -1, keepdims=True)

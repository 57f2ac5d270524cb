"""The rule of masking that `attend` makes, from labels, items, segments and positions alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from fusekit.stream import Stream, concatenate, label_id
from fusekit_modules.layers.attend import Attend, Clause, Rules, by_query
from fusekit_modules.layers.sight import Sight, alike


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
    """Descriptions of tokens, `[*b, n]` each; known when traced if static.

    `valid` matters of keys only. `latest`, of queries: by label, the item that the word `latest`
    lets them read, and whether there is one.
    """

    label: Any
    item: Any
    segment: Any
    position: Any
    data: Any
    index: Any
    valid: Any = None
    latest: Any = ()

    @staticmethod
    def of(stream: Stream, *, valid: bool = False) -> "Tokens":
        """Those of a stream; with `valid`, also which are neither padded nor absent."""
        rows = [(s, i) for s in stream.spans for i in range(s.size)]
        told = {
            "label": [label_id(s.label) for s, _ in rows],
            "item": [i * s.items // s.size for s, i in rows],
            "segment": [0] * len(rows),
            "position": [i for _, i in rows],
        }
        found = [getattr(stream, name) for name in told]
        columns: list[Any] = [
            np.asarray(own, "int32") if array is None else array
            for own, array in zip(told.values(), found, strict=True)
        ]
        data = np.asarray([not s.readout for s, _ in rows], bool)
        index = np.arange(len(rows), dtype="int32")
        label, item, segment, position = columns
        known = stream.valid() if valid else None
        return Tokens(label, item, segment, position, data, index, known)


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
        return self.sight(queries, keys).whole()

    def sight(self, queries: Stream, keys: Stream) -> Sight:
        """The mask, not made yet."""
        if self.rules == by_query("all"):
            return Sight(alike, Tokens.of(queries).segment, Tokens.of(keys).segment)
        labels = tuple(dict.fromkeys(span.label for span in keys.spans))
        asked = [clause.label for _, clauses in self.rules for clause in clauses]
        words = [clause.word for _, clauses in self.rules for clause in clauses]
        wanted = [label for label, word in zip(asked, words, strict=True) if word == "latest"]
        found = dict.fromkeys(n for label in wanted for n in ([label] if label else labels))

        def ahead(q: Tokens, k: Tokens) -> Tokens:
            return q._replace(latest={label: _latest(label, q, k) for label in found})

        return Sight(
            partial(self._seen, own=queries.length, labels=labels),
            Tokens.of(queries),
            Tokens.of(keys, valid=bool(found)),
            ahead if found else None,
        )

    def _seen(self, q: Tokens, k: Tokens, *, own: int, labels: Sequence[str]) -> Any:
        """Of queries `[*b, q, 1]` among `own` in all, and keys `[*b, 1, k]`."""
        seen = ~q.data
        for label, clauses in self.rules:
            mine = q.data if label is None else q.data & (q.label == label_id(label))
            for clause in clauses:
                seen = seen | (mine & self._allowed(clause, q, k, own, labels))
        if self.own:
            ruled = k.index < own
            for label in self.others:
                ruled = ruled | (k.label == label_id(label))
            seen = seen | ~ruled
        return seen & (q.segment == k.segment)

    def _allowed(
        self, clause: Clause, q: Tokens, k: Tokens, own: int, labels: Sequence[str]
    ) -> Any:
        """Where the clause lets a query read a key, whatever the query's label."""
        there = True if clause.label is None else k.label == label_id(clause.label)
        if clause.word in ("all", "none"):
            return there & (clause.word == "all")
        if clause.word == "causal":
            later = (k.index > q.index) & (k.index < own) & self.own
            before = (k.position < q.position) | ((k.position == q.position) & ~later)
            return there & k.data & before
        if clause.word == "item":
            return there & k.data & (k.label == q.label) & (k.item == q.item)
        found = [clause.label] if clause.label else labels
        return _any(_of_latest(label, q, k) for label in found)


def _any(masks: Iterable[Any]) -> Any:
    found: Any = np.zeros((1, 1), bool)
    for mask in masks:
        found = found | mask
    return found


def _latest(label: str, q: Tokens, k: Tokens) -> tuple[Any, Any]:
    """Of the valid keys of a label, the item of the one that stands last by position at or before
    the query, of equal positions the greatest item; and whether there is such a key."""
    before = k.data & (k.label == label_id(label))
    before = before & (k.position <= q.position) & (k.segment == q.segment)
    if k.valid is not None:
        before = before & k.valid
    low = np.iinfo("int32").min
    last = jnp.max(jnp.where(before, k.position, low), axis=-1, keepdims=True)
    final = before & (k.position == last)
    item = jnp.max(jnp.where(final, k.item, low), axis=-1, keepdims=True)
    return item, jnp.any(before, -1, keepdims=True)


def _of_latest(label: str, q: Tokens, k: Tokens) -> Any:
    """The whole item that `_latest` found."""
    item, some = q.latest[label]
    mine = k.data & (k.label == label_id(label))
    return mine & (k.item == item) & (k.segment == q.segment) & some

"""`attend`: what tokens see, said over labels. `fusekit_modules.layers.mask_rule` obeys it.

The words: `all`; `none`; `causal` (an earlier position, or an equal one: within one stream only if
it does not stand later); `item` (the same item of the same label); `latest` (of each label, the
item that stands last at an earlier or equal position).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from fusekit.errors import WiringError, nearest
from fusekit.stream import Signature

Word = Literal["all", "none", "causal", "item", "latest"]
WORDS: tuple[str, ...] = get_args(Word)
Sees = str | tuple[str, ...] | dict[str, Word | tuple[Word, ...]]
Attend = str | tuple[str, ...] | dict[str, Sees]
"""What tokens see: a label (all its tokens) or a word; a list (the union); or, in a mapping by the
label of the query, also a mapping from the label of the key to words. At its top a mapping is
always by query."""


class Clause(NamedTuple):
    """A word for keys of a label; `None`: of any."""

    word: str
    label: str | None
    path: tuple[str | int, ...]


def _clauses(sees: Sees) -> Iterator[Clause]:
    if isinstance(sees, Mapping):
        for label, words in sees.items():
            for word in (words,) if isinstance(words, str) else words:
                yield Clause(word, label, (label,))
        return
    for number, one in enumerate((sees,) if isinstance(sees, str) else sees):
        path = () if isinstance(sees, str) else (number,)
        yield Clause(one, None, path) if one in WORDS else Clause("all", one, path)


Rules = tuple[tuple[str | None, tuple[Clause, ...]], ...]
"""Clauses by label of the query; `None`: of any."""


def by_query(attend: Attend) -> Rules:
    """What an `attend` says, in one form."""
    if not isinstance(attend, Mapping):
        return ((None, tuple(_clauses(attend))),)
    return tuple((query, tuple(_clauses(sees))) for query, sees in attend.items())


def check_attend(
    attend: Attend | None, queries: Sequence[Signature], keys: Sequence[Signature]
) -> None:
    """Raises `WiringError` for labels that no token has, and for a mapping by query that leaves
    out a label of the queries. Readout tokens are not listed: as queries they see all."""
    if attend is None:
        return
    held = tuple(dict.fromkeys(s.label for q in queries for s in q.spans if not s.readout))
    known = tuple(dict.fromkeys(s.label for k in keys for s in k.spans))
    rules = by_query(attend)
    for query, clauses in rules:
        path = ("attend",) if query is None else ("attend", query)
        if query is not None and query not in held:
            raise _unknown("no token that reads has this label", query, held, path)
        for clause in clauses:
            if clause.label is not None and clause.label not in known:
                where = (*path, *clause.path)
                message = "no token that is read has this label"
                raise _unknown(message, clause.label, known, where, words=clause.word == "all")
    said = [query for query, _ in rules]
    missing = [label for label in held if label not in said]
    if None not in said and missing:
        raise WiringError(
            f"it is not said what tokens of {', '.join(missing)} see",
            found=", ".join(map(str, said)) or "nothing",
            expected=f"every label: {', '.join(held)}",
            field=("attend",),
        )


def _unknown(
    message: str,
    label: str,
    labels: tuple[str, ...],
    path: tuple[str | int, ...],
    words: bool = False,
) -> WiringError:
    known = (*labels, *WORDS) if words else labels
    close, due = nearest(label, known), ", ".join(known) or "a label"
    return WiringError(message, found=label, expected=due, field=path, nearest=close)

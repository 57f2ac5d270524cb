"""The least that stream attention must do, from shapes alone."""

from collections.abc import Sequence
from typing import NamedTuple

from fusekit_modules.ops.stream_attention.form import Form, Queries, Source


class Floor(NamedTuple):
    """Operations of the products, and bytes of arrays that must be read or written."""

    flops: int
    bytes: int

    def seconds(self, flop_rate: float, byte_rate: float) -> float:
        """The longer of computing at `flop_rate` and moving at `byte_rate`, both a second."""
        return max(self.flops / flop_rate, self.bytes / byte_rate)


def forward(form: Form, queries: Sequence[Queries], sources: Sequence[Source]) -> Floor:
    """Two products; queries, keys and values are read and the results written, each once."""
    arrays = [q.values for q in queries] * 2 + [a for s in sources for a in (s.key, s.value)]
    return Floor(
        2 * _product(form, queries, sources), sum(a.size * a.dtype.itemsize for a in arrays)
    )


def backward(form: Form, queries: Sequence[Queries], sources: Sequence[Source]) -> Floor:
    """Five products, one of which makes the weights again; queries, results, their gradient, keys
    and values are read and three gradients written, each once."""
    arrays = [q.values for q in queries] * 4
    arrays += [a for s in sources for a in (s.key, s.value)] * 2
    return Floor(
        5 * _product(form, queries, sources), sum(a.size * a.dtype.itemsize for a in arrays)
    )


def _product(form: Form, queries: Sequence[Queries], sources: Sequence[Source]) -> int:
    """Operations of one product of all streams."""
    batch, _, width = queries[0].values.shape
    pairs = sum(
        q.values.shape[1] * sum(sources[n].key.shape[1] for n in read)
        for q, read in zip(queries, form.reads, strict=True)
    )
    return 2 * batch * width * pairs

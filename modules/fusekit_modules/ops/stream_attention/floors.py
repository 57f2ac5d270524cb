"""The least that stream attention must do, from shapes alone."""

from collections.abc import Sequence

from jaxtyping import Array

from fusekit_modules.ops.floor import Floor
from fusekit_modules.ops.stream_attention.form import Form, Queries, Source


def forward(form: Form, queries: Sequence[Queries], sources: Sequence[Source]) -> Floor:
    """Two products; queries, keys and values are read and the results written, each once."""
    arrays = [q.values for q in queries] * 2 + [a for s in sources for a in (s.key, s.value)]
    return _floor(2, arrays, form, queries, sources)


def backward(form: Form, queries: Sequence[Queries], sources: Sequence[Source]) -> Floor:
    """Five products, one of which makes the weights again; queries, results, their gradient, keys
    and values are read and three gradients written, each once."""
    arrays = [q.values for q in queries] * 4
    arrays += [a for s in sources for a in (s.key, s.value)] * 2
    return _floor(5, arrays, form, queries, sources)


def _floor(
    products: int,
    arrays: Sequence[Array],
    form: Form,
    queries: Sequence[Queries],
    sources: Sequence[Source],
) -> Floor:
    batch, _, width = queries[0].values.shape
    weights = (
        batch
        * form.heads
        * sum(
            q.values.shape[1] * sum(sources[n].key.shape[1] for n in read)
            for q, read in zip(queries, form.reads, strict=True)
        )
    )
    flops = products * 2 * width // form.heads * weights
    return Floor(flops, sum(a.size * a.dtype.itemsize for a in arrays), weights)

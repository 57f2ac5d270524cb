"""What heads answer, as rows of plain data."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fusekit.answers import line, sigmoid, softmax, told
from fusekit.data.batch import Batch
from fusekit.graph import Graph
from fusekit.graph.link import link_of
from fusekit.stream import Signature, Stream

__all__ = ["answers", "sigmoid", "softmax"]


def answers(graph: Graph, found: Mapping[str, Stream], batch: Batch) -> Iterator[dict[str, Any]]:
    """One dict a row that is no filling.

    `row` is its number; `id` its name, if rows have names. For each head, and each fusion that
    combines what heads say: `<head>` its values (logits), null where the row lacks what the head
    needs; `<head>.probabilities` and `<head>.predicted` for those whose link is softmax or
    sigmoid; `<head>.present`; and `<head>.mask` for sequences with padding.
    """
    columns = {
        name: told(
            np.asarray(stream.values),
            mask=None if stream.mask is None else np.asarray(stream.mask),
            presence=None if stream.presence is None else np.asarray(stream.presence),
            link=link_of(graph, name.partition("@")[0]),
            names=_names(graph, name),
        )
        for name, stream in found.items()
    }
    for row in np.flatnonzero(batch.valid).tolist():
        about: dict[str, Any] = {"row": int(batch.index[row])}
        if batch.ids is not None:
            about["id"] = batch.ids[row]
        yield {**about, **line(columns, row)}


def _names(graph: Graph, name: str) -> tuple[str, ...]:
    """Names of the classes of a head, if they are declared."""
    head, _, point = name.partition("@")
    read = graph.outputs_of(head)[int(point) if point else 0]
    given = graph.signatures[read.key]
    signature = given if isinstance(given, Signature) else given["out"]
    return signature.names

"""What heads answer, as rows of plain data."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.data.batch import Batch
from fusekit.graph import Graph
from fusekit.graph.link import link_of
from fusekit.stream import Signature, Stream

Floats = NDArray[np.float64]


def answers(graph: Graph, found: Mapping[str, Stream], batch: Batch) -> Iterator[dict[str, Any]]:
    """One dict a row that is no filling.

    `row` is its number; `id` its name, if rows have names. For each head, and each fusion that
    combines what heads say: `<head>` its values (logits), null where the row lacks what the head
    needs; `<head>.probabilities` and `<head>.predicted` for those whose link is softmax or
    sigmoid; `<head>.present`; and `<head>.mask` for sequences with padding.
    """
    columns = {name: _columns(graph, name, stream) for name, stream in found.items()}
    for row in np.flatnonzero(batch.valid):
        line: dict[str, Any] = {"row": int(batch.index[row])}
        if batch.ids is not None:
            line["id"] = batch.ids[row]
        for name, parts in columns.items():
            present = parts["present"][row]
            for part, values in parts.items():
                key = name if not part else f"{name}.{part}"
                line[key] = _plain(values[row]) if present or part == "present" else None
        yield line


def _columns(graph: Graph, name: str, stream: Stream) -> dict[str, Any]:
    """Arrays `[b, ...]` by what they are; the values themselves under the empty name."""
    values = np.asarray(stream.values)
    if values.dtype.kind not in "biu":
        values = values.astype(np.float64)
    parts: dict[str, Any] = {"": values}
    link = link_of(graph, name.partition("@")[0])
    if link != "none":
        parts["probabilities"] = softmax(values) if link == "softmax" else sigmoid(values)
        names = _names(graph, name)
        if link == "softmax":
            best = values.argmax(-1)
            parts["predicted"] = np.asarray(names)[best] if names else best
        elif not names:
            parts["predicted"] = values > 0
        elif values.ndim == 2:
            parts["predicted"] = [
                [label for label, on in zip(names, row > 0, strict=True) if on] for row in values
            ]
    if stream.mask is not None:
        parts["mask"] = np.asarray(stream.mask)
    here = np.ones(len(values), bool) if stream.presence is None else np.asarray(stream.presence)
    parts["present"] = here
    return parts


def _names(graph: Graph, name: str) -> tuple[str, ...]:
    """Names of the classes of a head, if they are declared."""
    head, _, point = name.partition("@")
    read = graph.outputs_of(head)[int(point) if point else 0]
    given = graph.signatures[read.key]
    signature = given if isinstance(given, Signature) else given["out"]
    return signature.names


def softmax(values: Floats) -> Floats:
    """Over the last axis."""
    shifted = np.exp(values - values.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def sigmoid(values: Floats) -> Floats:
    """Without overflow for large negative values."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1 / (1 + small), small / (1 + small))


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value

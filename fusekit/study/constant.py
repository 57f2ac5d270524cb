"""The constant predictor: the best answer of one who sees no input."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.config.spec import Experiment
from fusekit.graph.graph import Graph
from fusekit.graph.link import is_answer, link_of
from fusekit.study.targets import PREFIX, Targets
from fusekit.train.evaluate import MASK, Columns, Gathered


def constant_predictor(
    experiment: Experiment, graph: Graph, metric: str, tested: Gathered
) -> tuple[float | None, Columns | None]:
    """The metric of one answer for all test rows, taken from the training rows.

    The logarithms of the classes' frequencies for an answer of classes, of labels' odds for one of
    labels, the mean for one of numbers; the same at each position of a sequence or a grid. Where
    only some positions count, they are taken from those of the test rows, in its favour. Where a
    metric compares two inputs row by row, as retrieval does, the first is that of one row for all.

    Args:
      experiment: whose training rows.
      graph: of the experiment.
      metric: with the roles `prediction`, of a head or of heads combined, and `target`, of a
        modality; or of `inputs`.
      tested: any model's test rows, for what holds in them.

    Returns:
      The score, and what the metric reads of this predictor row by row; None, None where the
      metric is of another kind or has no value.
    """
    columns = tested.columns[metric]
    constant = _answers(experiment, graph, metric, columns) or _searches(graph, metric, columns)
    if constant is None:
        return None, None
    values = {**columns.values, **constant}
    spec: Any = graph.metrics[metric].spec
    value = float(spec.compute(values, columns.rows))
    return (None, None) if math.isnan(value) else (value, Columns(values, columns.rows))


def _answers(
    experiment: Experiment, graph: Graph, metric: str, columns: Columns
) -> dict[str, NDArray[Any]] | None:
    """The prediction, if it is an answer to what a modality holds."""
    wires = graph.metrics[metric].wires
    if "prediction" not in wires or "target" not in wires:
        return None
    (predicted,), (target,) = wires["prediction"].reads, wires["target"].reads
    answered, name = predicted.key.node, target.key.node.removeprefix(PREFIX)
    modality = experiment.modalities.get(name)
    if not is_answer(graph, answered) or modality is None or modality.of or target.ports:
        return None
    prediction = columns.values["prediction"]
    axes = max(prediction.ndim - 1, 1)
    if "where" in columns.values:
        seen = _counted(columns, axes)
    else:
        seen = Targets(experiment, "train", (name,)).column(name, axes)
    answer = answer_for(seen, link_of(graph, answered), prediction.shape[-1])
    return {"prediction": np.broadcast_to(answer, prediction.shape)}


def _counted(columns: Columns, axes: int) -> NDArray[Any]:
    """What holds at the test positions that count: which these are is not known of other rows."""
    valid = np.ones(columns.values["target"].shape[:axes], bool)
    marks = [columns.rows, columns.values["where"] != 0]
    if axes > 1 and "target" + MASK in columns.values:
        marks.append(columns.values["target" + MASK])
    for mark in marks:
        valid &= mark.reshape(mark.shape + (1,) * (axes - mark.ndim))
    return columns.values["target"][valid]


def _searches(graph: Graph, metric: str, columns: Columns) -> dict[str, NDArray[Any]] | None:
    """The first of `inputs`: that of the first row that counts."""
    paths = graph.metrics[metric].spec.references()
    first = next((role for path, role, _ in paths if path[0] == "inputs"), None)
    if first is None or not columns.rows.any():
        return None
    row = int(np.argmax(columns.rows))
    return {
        role: np.broadcast_to(array[row], array.shape)
        for role, array in columns.values.items()
        if role in (first, first + MASK)
    }


def answer_for(seen: NDArray[Any], link: str, width: int) -> NDArray[np.float64]:
    """`[width]`: what to answer, whatever comes.

    Args:
      seen: targets of training: classes `[n]`, labels or numbers `[n, width]`.
      link: the head's: softmax, sigmoid or none.
      width: of the answer.
    """
    tiny = 0.5 / max(len(seen), 1)
    if link == "softmax":
        count = np.bincount(seen.astype(np.int64).ravel(), minlength=max(width, 2))
        log = np.log(np.maximum(count / max(count.sum(), 1), tiny))
        return log[1:] - log[:1] if width == 1 else log
    mean = seen.astype(np.float64).reshape(len(seen), -1).mean(axis=0)
    if link == "sigmoid":
        share = np.clip(mean, tiny, 1 - tiny)
        return np.log(share / (1 - share))
    return mean

"""The constant predictor: the best answer of one who sees no input."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusekit.config.spec import Experiment
from fusekit.graph.graph import Graph
from fusekit.graph.link import answering, link_of
from fusekit.study.targets import PREFIX, Targets
from fusekit.train.evaluate import Columns, Gathered


def constant_predictor(
    experiment: Experiment, graph: Graph, metric: str, tested: Gathered
) -> tuple[float | None, Columns | None]:
    """The metric of one answer for all test rows, taken from the training rows.

    The logarithms of the classes' frequencies for an answer of classes, of labels' odds for one of
    labels, the mean for one of numbers.

    Args:
      experiment: whose training rows.
      graph: of the experiment.
      metric: with the roles `prediction`, of a head or of heads combined, and `target`, of a
        modality.
      tested: any model's test rows, for what holds in them.

    Returns:
      The score, and what the metric reads of this predictor row by row; None, None where the
      metric is of another kind or has no value.
    """
    nothing = None, None
    wires = graph.metrics[metric].wires
    if "prediction" not in wires or "target" not in wires:
        return nothing
    (predicted,), (target,) = wires["prediction"].reads, wires["target"].reads
    answer_of = predicted.key.node
    if answer_of not in answering(graph) or not target.key.node.startswith(PREFIX):
        return nothing
    name = target.key.node.removeprefix(PREFIX)
    columns = tested.columns[metric]
    prediction = columns.values["prediction"]
    if prediction.ndim != 2:
        return nothing
    seen = Targets(experiment, "train", (name,)).column(name)
    answer = answer_for(seen, link_of(graph, answer_of), prediction.shape[1])
    values = {**columns.values, "prediction": np.broadcast_to(answer, prediction.shape)}
    spec: Any = graph.metrics[metric].spec
    value = float(spec.compute(values, columns.rows))
    return nothing if math.isnan(value) else (value, Columns(values, columns.rows))


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

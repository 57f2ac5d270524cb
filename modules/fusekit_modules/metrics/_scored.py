"""What metrics share: their fields, checks, and the rows and tokens that count."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from pydantic import Field

from fusekit.component import MetricSpec, Signatures
from fusekit.config.reference import Ref
from fusekit.errors import WiringError
from fusekit_modules.losses._count import check_where
from fusekit_modules.losses._match import check_classes, differ, holds_logits, positions

Floats = NDArray[np.float64]
Columns = Mapping[str, NDArray]

BEYOND = 1e200
"""Above what float32 holds, and small enough that differences and roundings stay finite."""

CERTAIN = 1e100
"""What is impossible ties with all that is, and what is certain too."""


class ScoredSpec(MetricSpec):
    """A metric of predictions against targets. It is NaN where no row counts, or where a row that
    counts was predicted NaN."""

    prediction: Ref = Field(description="what was predicted")
    target: Ref = Field(description="what holds")
    where: Ref | None = Field(None, description="a mask of the positions or rows that count")

    @classmethod
    def examples(cls) -> list[dict]:
        return [{"prediction": "head", "target": "batch.label"}]

    def compute(self, columns: Columns, rows: Bool[np.ndarray, "n"]) -> float:
        prediction, target = counted(columns, rows)
        if not len(prediction) or np.isnan(prediction).any():
            return float("nan")
        return float(self.score(prediction, target))

    def score(self, prediction: Floats, target: NDArray) -> float:
        """Of predictions `[m, c]` that count, and what holds, `[m]` or `[m, c]`."""
        raise NotImplementedError


class ClassesSpec(ScoredSpec):
    """A metric of logits against classes, of samples, tokens or a grid's positions.

    Logits of width one stand for the second of two classes.
    """

    def check(self, inputs: Signatures) -> None:
        """Logits, and as many classes. Raises `WiringError` otherwise."""
        prediction, target = inputs["prediction"], inputs["target"]
        if not holds_logits(prediction):
            raise WiringError(
                "the prediction holds no logits",
                found=prediction,
                expected="a head such as classifier",
                field=("prediction",),
            )
        if prediction.width == 1 and target.classes == 2:
            last = (prediction.axes[-1], 2)
            prediction = prediction.with_(sizes=(*prediction.sizes[:-1], last))
        check_classes(prediction, target)
        check_where(inputs, positions(prediction))


class LabelsOrClassesSpec(ClassesSpec):
    """A metric of logits against classes, or against labels of which several may hold."""

    def check(self, inputs: Signatures) -> None:
        """Logits, and as many classes or labels. Raises `WiringError` otherwise."""
        prediction, target = inputs["prediction"], inputs["target"]
        if target.kind != "vector":
            super().check(inputs)
            return
        if prediction.shape != target.shape or prediction.kind != "vector":
            expected = f"a vector of {target.width} logits"
            raise differ(prediction, target, "numbers of labels", expected)
        check_where(inputs, None)


def counted(columns: Columns, rows: Bool[np.ndarray, "n"]) -> tuple[Floats, NDArray]:
    """Predictions `[m, c]` and targets `[m]` or `[m, c]` of the rows that count; of sequences and
    grids, of each position that is valid in both (`<role>.mask`, of the first axis). `where` counts
    where it is not zero."""
    prediction, target = columns["prediction"], columns["target"]
    shape = prediction.shape[:-1] if prediction.ndim > 2 else prediction.shape[:1]
    marks = [np.asarray(rows, bool)]
    if len(shape) > 1:
        roles = ("prediction.mask", "target.mask")
        marks += [np.asarray(columns[role], bool) for role in roles if role in columns]
    if "where" in columns:
        marks.append(np.asarray(columns["where"]) != 0)
    valid = np.ones(shape, bool)
    for mark in marks:
        valid = valid & mark.reshape(mark.shape + (1,) * (len(shape) - mark.ndim))
    chosen = np.asarray(prediction[valid], np.float64)
    return chosen.reshape(len(chosen), int(np.prod(chosen.shape[1:]))), target[valid]


def both_classes(logits: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m k"]:
    """Logits of every class: those of width one stand for the second of two.

    Infinite ones become finite but beyond all others, so that a class of +inf is certain, one of
    -inf impossible, and several of the same are equally likely.
    """
    logits = np.clip(logits, -BEYOND, BEYOND)
    return (
        np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits
    )


def log_odds(logits: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m c"]:
    """log(p / (1 - p)) of each class, exact where probabilities would round to 0 or 1.

    Kept to ten decimals, so that rows of equal probability tie in spite of rounding.
    """
    top = logits.argmax(axis=1)[:, None]
    highest = np.take_along_axis(logits, top, axis=1)
    exp = np.exp(logits - highest)
    odds = logits - highest - np.log(np.maximum(exp.sum(axis=1, keepdims=True) - exp, 1e-300))
    rest = np.where(np.arange(logits.shape[1]) == top, -np.inf, logits)
    second = rest.max(axis=1, keepdims=True)
    others = np.log(np.exp(rest - second).sum(axis=1, keepdims=True))
    np.put_along_axis(odds, top, highest - second - others, axis=1)
    return np.round(odds, 10)


def softmax(logits: Float[np.ndarray, "m c"]) -> Float[np.ndarray, "m c"]:
    """Probabilities of classes."""
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def one_against_rest(
    logits: Float[np.ndarray, "m c"], target: NDArray
) -> tuple[Float[np.ndarray, "m k"], Bool[np.ndarray, "m k"]]:
    """Scores and truths by column: one column for two classes, else one a class or label."""
    if target.ndim == 2:
        return logits, target > 0.5
    classes = both_classes(logits)
    if classes.shape[1] == 2:
        odds, truth = classes[:, 1:] - classes[:, :1], target[:, None] == 1
    else:
        odds, truth = log_odds(classes), target[:, None] == np.arange(classes.shape[1])
    return np.clip(odds, -CERTAIN, CERTAIN), truth

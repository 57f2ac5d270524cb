"""What is made of a head's values: probabilities and the class that is predicted. NumPy alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def told(
    values: NDArray[Any],
    *,
    mask: NDArray[Any] | None,
    presence: NDArray[Any] | None,
    link: str,
    names: Sequence[str],
) -> dict[str, Any]:
    """Arrays `[b, ...]` by what they are; the values themselves under the empty name.

    `probabilities` and `predicted` where the link is softmax or sigmoid, `mask` where there is
    one, and `present` always.
    """
    if values.dtype.kind not in "biu":
        values = values.astype(np.float64)
    parts: dict[str, Any] = {"": values}
    if link != "none":
        parts["probabilities"] = softmax(values) if link == "softmax" else sigmoid(values)
        if link == "softmax":
            best = values.argmax(-1)
            parts["predicted"] = np.asarray(names)[best] if names else best
        elif not names:
            parts["predicted"] = values > 0
        elif values.ndim == 2:
            parts["predicted"] = [
                [label for label, on in zip(names, row > 0, strict=True) if on] for row in values
            ]
    if mask is not None:
        parts["mask"] = mask
    parts["present"] = np.ones(len(values), bool) if presence is None else presence
    return parts


def line(columns: dict[str, dict[str, Any]], row: int) -> dict[str, Any]:
    """One row as plain data: `<head>`, `<head>.probabilities` and so on; of a head that cannot
    answer for it all is null but `<head>.present`."""
    found: dict[str, Any] = {}
    for name, parts in columns.items():
        present = parts["present"][row]
        for part, values in parts.items():
            key = name if not part else f"{name}.{part}"
            found[key] = _plain(values[row]) if present or part == "present" else None
    return found


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

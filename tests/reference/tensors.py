"""Tensor, low-rank tensor and multiplicative fusion, one sample at a time, in float64."""

from itertools import product

import numpy as np

Arrays = dict[str, np.ndarray]


def _with_one(xs: dict[int, np.ndarray], k: int, width: int) -> np.ndarray:
    return np.concatenate([[1.0], xs.get(k, np.zeros(width))])


def tensor(widths: list[int], xs: dict[int, np.ndarray]) -> np.ndarray:
    """Entry (i_1, ..., i_M), row-major, is the product of the factors' entries."""
    factors = [_with_one(xs, k, width) for k, width in enumerate(widths)]
    return np.array([np.prod(entry) for entry in product(*factors)])


def low_rank_tensor(widths: list[int], p: Arrays, xs: dict[int, np.ndarray]) -> np.ndarray:
    """The full weight tensor is built from its factors and applied to the full outer product."""
    rank, _, width = p["factors.0"].shape
    full = tensor(widths, xs)
    out = np.array(p["bias"], "float64")
    for o in range(width):
        weights = np.zeros(len(full))
        for r in range(rank):
            columns = [p[f"factors.{k}"][r, :, o] for k in range(len(widths))]
            weights += p["mix"][r] * np.array([np.prod(entry) for entry in product(*columns)])
        out[o] += weights @ full
    return out


def _interaction(p: Arrays, name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    weight, second = p[f"{name}.weight"], p[f"{name}.second"]
    made = np.tensordot(x, weight, axes=1) + second
    offset = x @ p[f"{name}.first"] + p[f"{name}.bias"]
    return y @ made + offset if made.ndim == 2 else made * y + offset


def multiplicative(widths: list[int], p: Arrays, xs: dict[int, np.ndarray]) -> np.ndarray:
    x, y, *third = (xs.get(k, np.zeros(width)) for k, width in enumerate(widths))
    out = _interaction(p, "offset", x, y)
    for z in third:
        out = out + z @ _interaction(p, "made.0", x, y).reshape(len(z), -1)
    return out

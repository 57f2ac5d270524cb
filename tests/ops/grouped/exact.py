"""Grouped products in float64 by NumPy, a row at a time."""

import numpy as np


def product(rows, sizes, weights, grad):
    """What comes of each row, and the gradients by rows and by weights."""
    rows, weights, grad = (np.asarray(a, np.float64) for a in (rows, weights, grad))
    out, by_rows, by_weights = np.zeros(grad.shape), np.zeros(rows.shape), np.zeros(weights.shape)
    at = 0
    for group, size in enumerate(np.asarray(sizes)):
        for i in range(at, at + size):
            out[i] = rows[i] @ weights[group]
            by_rows[i] = weights[group] @ grad[i]
            by_weights[group] += np.outer(rows[i], grad[i])
        at += size
    return out, (by_rows, by_weights)


def off(found, due):
    found, due = np.asarray(found, np.float64), np.asarray(due, np.float64)
    return float(np.linalg.norm(found - due) / max(np.linalg.norm(due), 1e-30))

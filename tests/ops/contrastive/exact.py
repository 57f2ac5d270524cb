"""Contrasts in float64 by NumPy, by definition."""

import numpy as np


def scores(kind, given):
    """Scores `[b, n]` of operands given as arrays of float64."""
    products = [given.x @ y.T for y in given.y]
    if kind.score == "dot":
        return given.scale * products[0] + (given.bias if kind.reduction == "softplus" else 0)
    height = np.maximum(given.row[:, None] - sum(p**2 for p in products), 0)
    square = given.column * height
    root = np.where(square > 1e-6, np.sqrt(np.maximum(square, 0)), square / 2e-3 + 5e-4)
    return -given.scale * root


def results(kind, given, rows, columns):
    """By row and by column, one at a time."""
    every = scores(kind, given)
    by_row, by_column = np.zeros(len(rows)), np.zeros(len(columns))
    for i in np.flatnonzero(rows) if columns.any() else ():
        of_row = every[i, columns]
        if kind.reduction == "softplus":
            by_row[i] = np.logaddexp(0, of_row).sum()
        else:
            by_row[i] = np.logaddexp.reduce(of_row)
    for j in np.flatnonzero(columns) if rows.any() and kind.reduction == "logsumexp" else ():
        by_column[j] = np.logaddexp.reduce(every[rows, j])
    return by_row, by_column


def slope(function, at, step=1e-7):
    """Central differences of a function of an array."""
    found = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        move = np.zeros_like(at)
        move[index] = step
        found[index] = (function(at + move) - function(at - move)) / (2 * step)
    return found


def off(found, due, least=0):
    """How far apart, relative to what is due, or to `least` if that is more."""
    found, due = np.asarray(found, np.float64), np.asarray(due, np.float64)
    return float(np.linalg.norm(found - due) / max(np.linalg.norm(due), least, 1e-30))

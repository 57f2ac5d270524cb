"""Grouped products in float64 by NumPy, a row at a time."""

import math

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


def experts(x, expert, weight, up, down, grad):
    """sum_k weight_k gelu(x up_k) down_k of each token, a token and an expert at a time, and the
    gradients by tokens, weights, up and down."""
    given = x, weight, up, down, grad
    x, weight, up, down, grad = (np.asarray(a, np.float64) for a in given)
    out = np.zeros(x.shape)
    by_x, by_weight, by_up, by_down = (np.zeros(a.shape) for a in (x, weight, up, down))
    for *at, k in np.ndindex(*expert.shape):
        token, choice, e = tuple(at), (*at, k), expert[(*at, k)]
        inner = x[token] @ up[e]
        share = np.array([(1 + math.erf(v / math.sqrt(2))) / 2 for v in inner])
        said = (inner * share) @ down[e]
        out[token] += weight[choice] * said
        by_weight[choice] = said @ grad[token]
        by_down[e] += weight[choice] * np.outer(inner * share, grad[token])
        slope = share + inner * np.exp(-inner * inner / 2) / math.sqrt(2 * math.pi)
        by_inner = weight[choice] * (down[e] @ grad[token]) * slope
        by_up[e] += np.outer(x[token], by_inner)
        by_x[token] += up[e] @ by_inner
    return out, (by_x, by_weight, by_up, by_down)

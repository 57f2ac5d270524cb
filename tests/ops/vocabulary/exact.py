"""Cross-entropy in float64 by NumPy, by definition, and its gradients by hand."""

import numpy as np


def both(given, target, counts, grad, smoothing=0.0, weights=None):
    """By row the loss, and gradients of `grad @ loss` by features, kernel and bias."""
    x, kernel = (np.asarray(leaf, np.float64) for leaf in given[:2])
    x = np.where(np.asarray(counts)[:, None], x, 0)
    vocabulary = kernel.shape[1]
    bias = np.zeros(vocabulary) if given.bias is None else np.asarray(given.bias, np.float64)
    w = np.ones(vocabulary) if weights is None else np.asarray(weights, np.float64)
    each, slope = np.zeros(len(x)), np.zeros((len(x), vocabulary))
    for i in np.flatnonzero(counts):
        logits = x[i] @ kernel + bias
        log_p = logits - np.logaddexp.reduce(logits)
        due = smoothing / vocabulary * w
        due[target[i]] += (1 - smoothing) * w[target[i]]
        each[i] = -due @ log_p
        slope[i] = grad[i] * (due.sum() * np.exp(log_p) - due)
    return each, (slope @ kernel.T, x.T @ slope, slope.sum(0))


def off(found, due):
    """How far apart, relative to what is due."""
    found, due = np.asarray(found, np.float64), np.asarray(due, np.float64)
    return float(np.linalg.norm(found - due) / max(np.linalg.norm(due), 1e-30))

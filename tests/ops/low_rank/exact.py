"""The low-rank product in float64 by NumPy, a sample and a rank at a time."""

import jax
import numpy as np


def doubled(given):
    """As float64 NumPy."""
    return jax.tree.map(lambda array: np.asarray(array, np.float64), given)


def forward(given):
    found = np.zeros((len(given.vectors[0]), len(given.bias))) + given.bias
    for b, r in np.ndindex(len(found), len(given.mix)):
        term = np.full(len(given.bias), given.mix[r])
        for vector, (offsets, weights) in zip(given.vectors, given.factors, strict=True):
            term = term * (np.concatenate([[1.0], vector[b]]) @ np.vstack([offsets[r], weights[r]]))
        found[b] += term
    return found


def off(found, due):
    """How far apart, relative to what is due, all arrays together."""
    found, due = (
        np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in jax.tree.leaves(tree)])
        for tree in (found, due)
    )
    return float(np.linalg.norm(found - due) / max(np.linalg.norm(due), 1e-30))

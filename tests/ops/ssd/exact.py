"""The recurrence in float64 NumPy, one number of one head at a time."""

import numpy as np


def by_hand(x, decay, into, out, *, reset=None, valid=None, state=None):
    """y and the last state. A reset waits for a token that is there."""
    batch, time, heads, size = x.shape
    each = heads // into.shape[2]
    y = np.zeros(x.shape)
    last = np.zeros((batch, heads, size, into.shape[3]))
    for b, h in np.ndindex(batch, heads):
        now = np.zeros(last.shape[2:]) if state is None else np.array(state[b, h], np.float64)
        waiting = False
        for t in range(time):
            waiting = waiting or (reset is not None and bool(reset[b, t]))
            if valid is not None and not valid[b, t]:
                continue
            kept = 0.0 if waiting else np.exp(decay[b, t, h])
            waiting = False
            now = kept * now + np.outer(x[b, t, h], into[b, t, h // each])
            y[b, t, h] = now @ out[b, t, h // each]
        last[b, h] = now
    return y, last


def difference(found, due):
    """Relative, by norm."""
    found, due = (np.asarray(a, np.float64) for a in (found, due))
    return np.linalg.norm(found - due) / max(np.linalg.norm(due), 1e-30)

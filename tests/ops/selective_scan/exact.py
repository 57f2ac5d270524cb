"""The selective scan in float64 by NumPy, a token at a time, and its gradients by going back."""

import numpy as np


def _decays(given, options):
    """Decays `[b, t, d, n]`; what is not there neither decays nor adds, and a reset waits."""
    x, delta, into, out = (given[k].copy() for k in ("x", "delta", "into", "out"))
    batch, time, _ = x.shape
    valid = np.ones((batch, time), bool) if options["valid"] is None else options["valid"]
    reset = np.zeros((batch, time), bool) if options["reset"] is None else options["reset"]
    for array in (x, delta, into, out):
        array[~valid] = 0
    decays = np.exp(delta[..., None] * given["a"])
    for b in range(batch):
        waiting = False
        for t in range(time):
            waiting = waiting or reset[b, t]
            if valid[b, t] and waiting:
                decays[b, t], waiting = 0, False
    return x, delta, into, out, decays, valid


def forward(given, options):
    """y, the last state, and the states before and after every token."""
    x, delta, into, out, decays, _ = _decays(given, options)
    states = [given["state"]]
    for t in range(x.shape[1]):
        added = (delta[:, t] * x[:, t])[..., None] * into[:, t, None]
        states.append(decays[:, t] * states[-1] + added)
    y = np.stack([(out[:, t, None] * states[t + 1]).sum(-1) for t in range(x.shape[1])], axis=1)
    return y, states[-1], states


def backward(given, options, d_y, d_last):
    """Gradients by name."""
    x, delta, into, out, decays, valid = _decays(given, options)
    _, _, states = forward(given, options)
    found = {name: np.zeros(array.shape) for name, array in given.items()}
    d_y = np.where(valid[..., None], d_y, 0)
    d_state = d_last
    for t in reversed(range(x.shape[1])):
        d_state = d_state + d_y[:, t, :, None] * out[:, t, None]
        found["out"][:, t] = (states[t + 1] * d_y[:, t, :, None]).sum(1)
        product = delta[:, t] * x[:, t]
        found["into"][:, t] = (d_state * product[..., None]).sum(1)
        d_product = (d_state * into[:, t, None]).sum(-1)
        d_exponent = d_state * states[t] * decays[:, t]
        found["x"][:, t] = d_product * delta[:, t]
        found["delta"][:, t] = d_product * x[:, t] + (d_exponent * given["a"]).sum(-1)
        found["a"] += (d_exponent * delta[:, t, :, None]).sum(0)
        d_state = d_state * decays[:, t]
    for name in ("x", "delta", "into", "out"):
        found[name][~valid] = 0
    return {**found, "state": d_state}


def off(found, due):
    """How far apart, relative to what is due."""
    found, due = np.asarray(found, np.float64), np.asarray(due, np.float64)
    return float(np.linalg.norm(found - due) / max(np.linalg.norm(due), 1e-30))

"""Mamba-1 in float64, one sample, token and channel at a time."""

import numpy as np

from tests.reference.state_space import conv, silu
from tests.reference.transformer import Arrays, mlp, norm


def way(
    p: Arrays,
    name: str,
    x: np.ndarray,
    there: np.ndarray,
    reset: np.ndarray,
    span: np.ndarray,
) -> np.ndarray:
    """What the direction `forward` or `backward` of `name` reads of its states, with D x."""
    own = {k: p[f"{name}.{k}"] for k in ("dt_bias", "a_log", "d")}
    x = conv(p, f"{name}.conv", x, reset, span)
    mixer = name.rpartition(".")[0]
    rank, states = p[f"{mixer}.dt.kernel"].shape[0], own["a_log"].shape[1]
    found = x @ p[f"{mixer}.select.kernel"]
    low, b, c = found[:, :rank], found[:, rank : rank + states], found[:, rank + states :]
    step = np.log1p(np.exp(low @ p[f"{mixer}.dt.kernel"] + own["dt_bias"]))
    y = np.zeros_like(x)
    for channel in range(x.shape[1]):
        state, a = np.zeros(states), -np.exp(own["a_log"][channel])
        for t in range(len(x)):
            if not there[t]:
                continue
            kept = 0.0 if reset[t] else np.exp(step[t, channel] * a)
            state = kept * state + step[t, channel] * b[t] * x[t, channel]
            y[t, channel] = state @ c[t]
    return y + own["d"] * x


def mixer(
    p: Arrays,
    name: str,
    x: np.ndarray,
    *,
    there: np.ndarray | None = None,
    begins: tuple[np.ndarray, np.ndarray] | None = None,
    sizes: tuple[int, ...] = (),
) -> np.ndarray:
    """As `state_space.mixer`."""
    there = np.ones(len(x), bool) if there is None else there
    none = np.zeros(len(x), bool)
    ahead, behind = begins or (none, none)
    x = np.where(there[:, None], x, 0)
    inner, z = x @ p[f"{name}.x.kernel"], x @ p[f"{name}.z.kernel"]
    span = np.repeat(np.arange(len(sizes or (1,))), sizes or len(x))
    y = way(p, f"{name}.forward", inner, there, ahead, span)
    if f"{name}.backward.d" in p:
        back = (inner[::-1], there[::-1], behind[::-1], span[::-1])
        y = y + way(p, f"{name}.backward", *back)[::-1]
    return (y * silu(z)) @ p[f"{name}.out.kernel"]


def block(p: Arrays, name: str, x: np.ndarray, **more: object) -> np.ndarray:
    """x + mixer(norm x), then x + mlp(norm x). `name` ends with a dot, or is empty."""
    x = x + mixer(p, f"{name}selective", norm(p, f"{name}scan_norm", x), **more)  # pyright: ignore
    return x + mlp(p, f"{name}mlp", norm(p, f"{name}mlp_norm", x))

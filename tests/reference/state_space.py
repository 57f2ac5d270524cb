"""Mamba-2 in float64, one sample, token and head at a time."""

import numpy as np

from tests.reference.transformer import Arrays, mlp, norm


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def conv(p: Arrays, name: str, x: np.ndarray, reset: np.ndarray, span: np.ndarray) -> np.ndarray:
    """Each token and those of its span before it, back to the last reset."""
    kernel, y = p[f"{name}.kernel"], np.zeros_like(x)
    for t in range(len(x)):
        for lag in range(min(len(kernel), t + 1)):
            if span[t - lag] != span[t]:
                break
            y[t] += kernel[len(kernel) - 1 - lag] * x[t - lag]
            if reset[t - lag]:
                break
    return silu(y + p[f"{name}.bias"])


def way(
    p: Arrays,
    name: str,
    given: list[np.ndarray],
    there: np.ndarray,
    reset: np.ndarray,
    span: np.ndarray,
) -> np.ndarray:
    """What one direction reads of its states, with D x."""
    x, b, c, dt = given
    x, b, c = (
        conv(p, f"{name}.conv_{k}", a, reset, span) for k, a in zip("xbc", (x, b, c), strict=True)
    )
    step = np.log1p(np.exp(dt + p[f"{name}.dt_bias"]))
    y = np.zeros_like(x)
    for h in range(x.shape[1]):
        g = h // (x.shape[1] // b.shape[1])
        state = np.zeros((x.shape[2], b.shape[2]))
        for t in range(len(x)):
            if not there[t]:
                continue
            kept = 0.0 if reset[t] else np.exp(-np.exp(p[f"{name}.a_log"][h]) * step[t, h])
            state = kept * state + step[t, h] * np.outer(x[t, h], b[t, g])
            y[t, h] = state @ c[t, g]
        y[:, h] += p[f"{name}.d"][h] * x[:, h]
    return y


def mixer(
    p: Arrays,
    name: str,
    x: np.ndarray,
    *,
    there: np.ndarray | None = None,
    begins: tuple[np.ndarray, np.ndarray] | None = None,
    sizes: tuple[int, ...] = (),
) -> np.ndarray:
    """`x [t, d]` in the order of the scan, in spans of these sizes. `begins`: where states begin
    anew, going forward and (as tokens stand) going back. There is a way back if there are
    parameters for it."""
    there = np.ones(len(x), bool) if there is None else there
    none = np.zeros(len(x), bool)
    ahead, behind = begins or (none, none)
    x = np.where(there[:, None], x, 0)
    parts = {n: np.tensordot(x, p[f"{name}.{n}.kernel"], 1) for n in ("x", "z", "b", "c", "dt")}
    z = parts.pop("z")
    given = list(parts.values())
    span = np.repeat(np.arange(len(sizes or (1,))), sizes or len(x))
    y = way(p, f"{name}.forward", given, there, ahead, span)
    if f"{name}.backward.d" in p:
        back = [a[::-1] for a in given]
        y = y + way(p, f"{name}.backward", back, there[::-1], behind[::-1], span[::-1])[::-1]
    y = y * silu(z)
    groups = parts["b"].shape[1]
    grouped = y.reshape(len(x), groups, -1)
    grouped = grouped / np.sqrt((grouped**2).mean(-1, keepdims=True) + 1e-6)
    y = grouped.reshape(y.shape) * p[f"{name}.scale"].reshape(y.shape[1:])
    return np.tensordot(y, p[f"{name}.out.kernel"], 2)


def block(p: Arrays, name: str, x: np.ndarray, **more: object) -> np.ndarray:
    """x + mixer(norm x), then x + mlp(norm x). `name` ends with a dot, or is empty."""
    x = x + mixer(p, f"{name}ssd", norm(p, f"{name}scan_norm", x), **more)  # pyright: ignore
    return x + mlp(p, f"{name}mlp", norm(p, f"{name}mlp_norm", x))

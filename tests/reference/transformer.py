"""The pre-norm transformer block and its kin, one sample at a time, in float64.

Tokens are lists of what is valid only: nothing is masked, it is left out.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import erf

Arrays = dict[str, np.ndarray]


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def norm(p: Arrays, name: str, x: np.ndarray, epsilon: float = 1e-6) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    return scaled * p[f"{name}.scale"] + p[f"{name}.bias"]


def mlp(p: Arrays, name: str, x: np.ndarray, act: Callable = gelu) -> np.ndarray:
    hidden = act(x @ p[f"{name}.up.kernel"] + p[f"{name}.up.bias"])
    return hidden @ p[f"{name}.down.kernel"] + p[f"{name}.down.bias"]


def attention(p: Arrays, name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """`x [q, d]` reads `y [k, d]`, head by head; with nothing to read, nothing is added. Keys have
    no bias."""
    if len(y) == 0:
        return np.zeros_like(x)
    out = np.array(np.broadcast_to(p[f"{name}.out.bias"], x.shape), "float64")
    _, heads, size = p[f"{name}.query.kernel"].shape
    for head in range(heads):
        q, k, v = (
            source @ p[f"{name}.{kind}.kernel"][:, head]
            for kind, source in (("query", x), ("key", y), ("value", y))
        )
        q, v = q + p[f"{name}.query.bias"][head], v + p[f"{name}.value.bias"][head]
        scores = q @ k.T / np.sqrt(size)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights = weights / weights.sum(axis=1, keepdims=True)
        out += weights @ v @ p[f"{name}.out.kernel"][head]
    return out


def block(
    p: Arrays,
    name: str,
    x: np.ndarray,
    y: np.ndarray | None = None,
    *,
    act: Callable = gelu,
    feed: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """x + attention(norm x, norm y), then x + mlp(norm x); `y` is `x` itself unless given, and
    `feed` may stand in for the mlp. `name` ends with a dot, or is empty."""
    target = norm(p, f"{name}attention_norm", x)
    source = target if y is None else norm(p, f"{name}attention_norm", y)
    x = x + attention(p, f"{name}attention", target, source)
    normal = norm(p, f"{name}mlp_norm", x)
    return x + (mlp(p, f"{name}mlp", normal, act) if feed is None else feed(normal))


def tower(p: Arrays, name: str, depth: int, x: np.ndarray, act: Callable = gelu) -> np.ndarray:
    for layer in range(depth):
        x = block(p, f"{name}.layers.{layer}.", x, act=act)
    return norm(p, f"{name}.norm", x)


def sines(positions: np.ndarray, width: int) -> np.ndarray:
    """sin in the first half of the channels, cos in the second."""
    table = np.zeros((len(positions), width))
    half = width // 2
    for i in range(half):
        angle = positions / 10000 ** (i / half)
        table[:, i], table[:, half + i] = np.sin(angle), np.cos(angle)
    return table

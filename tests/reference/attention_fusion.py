"""Set attention and pairwise attention, one sample at a time, in float64."""

import numpy as np

from tests.reference.transformer import Arrays, attention, mlp, norm, relu, tower
from tests.reference.vectors import affine, softmax

__all__ = ["attention", "deep_set", "pairwise", "set_transformer"]


def set_transformer(p: Arrays, depth: int, xs: dict[int, np.ndarray]) -> np.ndarray:
    """Only the present modalities are tokens at all."""
    tokens = np.stack([affine(p, f"project.{k}", x) for k, x in xs.items()])
    return tower(p, "tower", depth, tokens).mean(axis=0)


def deep_set(p: Arrays, xs: dict[int, np.ndarray]) -> np.ndarray:
    tokens = {k: affine(p, f"project.{k}", x) for k, x in xs.items()}
    scores = {}
    for k, token in tokens.items():
        hidden = np.tanh(affine(p, "score.up", token))
        scores[k] = (hidden @ p["score.down.kernel"])[0]
    weights = softmax(scores)
    return mlp(p, "mlp", sum(weights[k] * token for k, token in tokens.items()))


def sines(length: int, width: int) -> np.ndarray:
    """Token by token and channel by channel: token t (from 1) has sin(t f_i) at i and cos(t f_i) at
    half + i, f_i = exp(-i ln(10000) / (half - 1)); an odd last channel is 0."""
    table, half = np.zeros((length, width)), width // 2
    for t in range(1, length + 1):
        for i in range(half):
            angle = t * np.exp(-i * np.log(10000) / max(half - 1, 1))
            table[t - 1, i], table[t - 1, half + i] = np.sin(angle), np.cos(angle)
    return table


def placed(x: np.ndarray) -> np.ndarray:
    """How both of MulT's stages begin."""
    return np.sqrt(x.shape[1]) * x + sines(*x.shape)


def layer(p: Arrays, name: str, x: np.ndarray, y: np.ndarray | None, ahead: int | None):
    """A pre-norm layer in which token i reads no token past i + `ahead` (None: no such limit)."""
    target = norm(p, f"{name}attention_norm", x)
    source = target if y is None else norm(p, f"{name}attention_norm", y)
    stops = [None if ahead is None else i + ahead + 1 for i in range(len(x))]
    read = [
        attention(p, f"{name}attention", row[None], source[:stop])
        for row, stop in zip(target, stops, strict=True)
    ]
    x = x + np.concatenate(read)
    return x + mlp(p, f"{name}mlp", norm(p, f"{name}mlp_norm", x), relu)


def pairwise(
    p: Arrays,
    names: list[str],
    lengths: list[int],
    xs: dict[int, np.ndarray],
    *,
    depth: int,
    self_depth: int,
    include_self: bool = False,
    causal: bool = False,
    pool: str = "last",
    positions: bool = True,
) -> Arrays:
    """Valid tokens lead; `xs[k]` may be shorter than `lengths[k]`. Pools what is valid."""
    begin = placed if positions else lambda x: np.sqrt(x.shape[1]) * x
    embedded = {k: begin(x @ p[f"project.{k}.kernel"]) for k, x in xs.items()}
    pools = {"last": lambda x: x[-1], "first": lambda x: x[0], "mean": lambda x: x.mean(axis=0)}
    out, pooled = {}, []
    for i, name in enumerate(names):
        sources = [j for j in range(len(names)) if j != i or include_self]
        width = len(sources) * p["project.0.kernel"].shape[1]
        out[name] = np.zeros((lengths[i], width))
        if i not in xs:
            pooled.append(np.zeros(width))
            continue
        parts = []
        for j in sources:
            x, y = embedded[i], embedded.get(j, np.zeros((0, embedded[i].shape[1])))
            ahead = abs(lengths[i] - lengths[j]) if causal else None
            for k in range(depth):
                x = layer(p, f"pairs.{i}_{j}.layers.{k}.", x, y, ahead)
            parts.append(norm(p, f"pairs.{i}_{j}.norm", x))
        x = begin(np.concatenate(parts, axis=1))
        for k in range(self_depth):
            x = layer(p, f"towers.{i}.layers.{k}.", x, None, 0 if causal else None)
        x = norm(p, f"towers.{i}.norm", x)
        out[name][: len(x)] = x
        pooled.append(pools[pool](x))
    return {"out": np.concatenate(pooled), **out}

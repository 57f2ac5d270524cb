"""Set attention and pairwise attention, one sample at a time, in float64."""

import numpy as np

from tests.reference.transformer import Arrays, attention, block, mlp, norm, relu, sines, tower
from tests.reference.vectors import affine, softmax

__all__ = ["attention", "deep_set", "pairwise", "set_transformer"]


def set_transformer(p: Arrays, depth: int, xs: dict[int, np.ndarray]) -> np.ndarray:
    """Only the present modalities are tokens at all."""
    tokens = np.stack([affine(p, f"project.{k}", x) for k, x in xs.items()])
    return tower(p, "tower", depth, tokens).mean(axis=0)


def deep_set(p: Arrays, xs: dict[int, np.ndarray]) -> np.ndarray:
    tokens = {k: affine(p, f"project.{k}", x) for k, x in xs.items()}
    weights = softmax({k: mlp(p, "score", token, np.tanh)[0] for k, token in tokens.items()})
    return mlp(p, "mlp", sum(weights[k] * token for k, token in tokens.items()))


def pairwise(
    p: Arrays,
    names: list[str],
    lengths: list[int],
    xs: dict[int, np.ndarray],
    *,
    depth: int,
    self_depth: int,
    include_self: bool,
) -> Arrays:
    """Valid tokens lead; `xs[k]` may be shorter than `lengths[k]`. Pools the last valid token."""
    embedded = {}
    for k, x in xs.items():
        tokens = x @ p[f"project.{k}.kernel"]
        embedded[k] = tokens + sines(np.arange(len(x)), tokens.shape[1])
    out, pooled = {}, []
    for i, name in enumerate(names):
        sources = [j for j in range(len(names)) if j != i or include_self]
        width = len(sources) * p["project.0.kernel"].shape[1]
        found = np.zeros((lengths[i], width))
        if i in xs:
            parts = []
            for j in sources:
                x, y = embedded[i], embedded.get(j, np.zeros((0, embedded[i].shape[1])))
                for layer in range(depth):
                    x = block(p, f"pairs.{i}_{j}.layers.{layer}.", x, y, act=relu)
                parts.append(norm(p, f"pairs.{i}_{j}.norm", x))
            mixed = tower(p, f"towers.{i}", self_depth, np.concatenate(parts, axis=1), relu)
            found[: len(mixed)] = mixed
            pooled.append(mixed[-1])
        else:
            pooled.append(np.zeros(width))
        out[name] = found
    return {"out": np.concatenate(pooled), **out}

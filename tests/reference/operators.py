"""Operators on stacks of blocks, one sample at a time, in float64."""

import numpy as np

from tests.reference.transformer import Arrays, block, gelu


def bottleneck(
    p: Arrays, lengths: list[int], depth: int, places: tuple[int, ...], xs: dict
) -> dict:
    """All streams see the same tokens; the next ones are the mean of what came out."""
    width = p["operator.tokens"].shape[1]
    running, z = dict(xs), p["operator.tokens"]
    for layer in range(depth):
        after = {}
        for k, x in running.items():
            joined = np.concatenate([x, z]) if layer in places else x
            joined = block(p, f"stacks.{k}.{layer}.", joined)
            running[k], after[k] = joined[: len(x)], joined[len(x) :]
        if layer in places:
            z = np.mean(list(after.values()), axis=0)
    out = {f"m{k}": np.zeros((n, width)) for k, n in enumerate(lengths)}
    for k, x in running.items():
        out[f"m{k}"][: len(x)] = x
    return out


def route(router: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, float]:
    """A token's probabilities, and the log of what they were divided by."""
    logits = token @ router
    total = np.sum(np.exp(logits))
    return np.exp(logits) / total, float(np.log(total))


def experts_mlp(p: Arrays, name: str, x: np.ndarray, top: int, *, normalise: bool) -> np.ndarray:
    """Token by token and expert by expert."""
    out = np.zeros_like(x)
    for t, token in enumerate(x):
        chances, _ = route(p[f"{name}.router"], token)
        best = np.argsort(-chances)[:top]
        share = chances[best].sum() if normalise else 1.0
        for e in best:
            hidden = gelu(token @ p[f"{name}.mlps.up"][e])
            out[t] += chances[e] / share * (hidden @ p[f"{name}.mlps.down"][e])
    return out


def balance_and_z(router: np.ndarray, tokens: np.ndarray, top: int) -> tuple[float, float]:
    """Over all tokens that count."""
    count = router.shape[1]
    load, mass, square = np.zeros(count), np.zeros(count), 0.0
    for token in tokens:
        chances, log_total = route(router, token)
        load[np.argsort(-chances)[:top]] += 1
        mass += chances
        square += log_total**2
    share = load / (len(tokens) * top)
    return count * float(np.sum(share * mass / len(tokens))), square / len(tokens)

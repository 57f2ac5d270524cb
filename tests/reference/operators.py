"""Operators on stacks of blocks, one sample at a time, in float64."""

from typing import Any

import numpy as np

from tests.reference.transformer import Arrays, attention, block, gelu, mlp, norm


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


def reading(p: Arrays, name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x, and what it reads of y, by gates where there are some."""
    if len(y) == 0:
        return x
    gates = np.tanh(p.get(f"{name}.gates", np.full(2, np.inf)))
    normal = norm(p, f"{name}.norm", x), norm(p, f"{name}.source_norm", y)
    x = x + gates[0] * attention(p, f"{name}.attention", *normal)
    if f"{name}.mlp.up.kernel" not in p:
        return x
    return x + gates[1] * mlp(p, f"{name}.mlp", norm(p, f"{name}.mlp_norm", x))


def cross_attention(
    p: Arrays, lengths: list[int], depth: int, places: tuple[int, ...], xs: dict, **how: Any
) -> dict:
    """Stacks of `lengths` read the inputs after them, if the operator was given any, or else one
    another as they enter a layer; `how` has `act`, and `given`, the number of inputs in all."""
    edited = {k: x for k, x in xs.items() if k < len(lengths)}
    reads = [x for k, x in xs.items() if k >= len(lengths)]
    for layer in range(depth):
        before = dict(edited)
        for k, x in before.items():
            if layer not in places:
                edited[k] = block(p, f"stacks.{k}.{layer}.", x)
                continue
            others = (
                reads if how["given"] > len(lengths) else [y for j, y in before.items() if j != k]
            )
            y = np.concatenate(others) if others else np.zeros((0, 1))
            own, mine = f"stacks.{k}.{layer}.", f"layers.{places.index(layer)}.readings.{k}"
            if how["act"] == "before":
                edited[k] = block(p, own, reading(p, mine, x, y))
                continue
            normal = norm(p, f"{own}attention_norm", x)
            x = reading(p, mine, x + attention(p, f"{own}attention", normal, normal), y)
            edited[k] = x + mlp(p, f"{own}mlp", norm(p, f"{own}mlp_norm", x))
    width = p["stacks.0.0.mlp.down.bias"].shape[0]
    out = {f"m{k}": np.zeros((n, width)) for k, n in enumerate(lengths)}
    for k, x in edited.items():
        out[f"m{k}"][: len(x)] = x
    return out


def bridge(p: Arrays, length: int, depth: int, places: tuple[int, ...], xs: dict) -> dict:
    """One stack, and what its layers are told of another's."""
    width = p["stacks.0.0.mlp.down.bias"].shape[0]
    x = xs.get(0)
    for layer in range(depth if x is not None else 0):
        if layer in places and 1 in xs:
            name = f"layers.{places.index(layer)}"
            x = norm(p, f"{name}.norms.0", x + xs[1] @ p[f"{name}.projections.0.kernel"])
        x = block(p, f"stacks.0.{layer}.", x)
    return {"m0": np.zeros((length, width)) if x is None else x}

"""Fusions of vectors, one sample at a time, in float64. `xs` holds the present inputs by index."""

from itertools import pairwise

import numpy as np

Arrays = dict[str, np.ndarray]
Inputs = dict[int, np.ndarray]


def softmax(scores: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Across the entries of a mapping, elementwise."""
    highest = np.max(list(scores.values()), axis=0)
    exp = {k: np.exp(score - highest) for k, score in scores.items()}
    total = sum(exp.values())
    return {k: e / total for k, e in exp.items()}


def affine(p: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return x @ p[f"{name}.kernel"] + p[f"{name}.bias"]


def side_by_side(p: Arrays, name: str, widths: list[int], xs: Inputs) -> np.ndarray:
    """An affine map of all inputs in a row, adding up only the rows of what is present."""
    starts = np.cumsum([0, *widths])
    kernel = p[f"{name}.kernel"]
    out = np.array(p[f"{name}.bias"], "float64")
    for k, x in xs.items():
        out = out + np.tensordot(x, kernel[starts[k] : starts[k + 1]], axes=1)
    return out


def add(p: Arrays, xs: Inputs, *, project: bool, scale_to: int | None) -> np.ndarray:
    each = [affine(p, f"project.{k}", x) if project else x for k, x in xs.items()]
    total = np.sum(each, axis=0)
    return total if scale_to is None else total * scale_to / len(each)


def gated(p: Arrays, widths: list[int], xs: Inputs, *, tied: bool) -> np.ndarray:
    """Arevalo 2017. With two present and tied gates: z h_1 + (1 - z) h_2, z a sigmoid."""
    logits = side_by_side(p, "gate", widths, xs)
    each = {k: np.tanh(affine(p, f"project.{k}", x)) for k, x in xs.items()}
    if not tied:
        return sum(h / (1 + np.exp(-logits[:, k])) for k, h in each.items())
    if len(each) == 2:
        (i, first), (j, second) = each.items()
        z = 1 / (1 + np.exp(logits[:, j] - logits[:, i]))
        return z * first + (1 - z) * second
    gates = softmax({k: logits[:, k] for k in each})
    return sum(gates[k] * h for k, h in each.items())


def attention_weighted(p: Arrays, widths: list[int], xs: Inputs) -> Arrays:
    scores = side_by_side(p, "score", widths, xs)
    chosen = softmax({k: scores[k] for k in xs})
    out = sum(chosen[k] * affine(p, f"project.{k}", x) for k, x in xs.items())
    weights = np.zeros(len(widths))
    for k, weight in chosen.items():
        weights[k] = weight
    return {"out": out, "weights": weights}


def gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def mlp(p: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return affine(p, f"{name}.down", gelu(affine(p, f"{name}.up", x)))


def expert_gate(p: Arrays, count: int, xs: Inputs) -> Arrays:
    each = {k: mlp(p, f"experts.{k}", x) for k, x in xs.items()}
    chosen = softmax({k: affine(p, f"scores.{k}", h)[0] for k, h in each.items()})
    gate = np.zeros(count)
    for k, weight in chosen.items():
        gate[k] = weight
    return {"out": sum(chosen[k] * h for k, h in each.items()), "gate": gate}


def bilinear(p: Arrays, xs: Inputs, *, form: str, rank: int, epsilon: float) -> np.ndarray:
    factors = [affine(p, f"project.{k}", x) for k, x in xs.items()]
    if form == "mlb":
        return affine(p, "out", np.prod(np.tanh(factors), axis=0))
    product = np.prod(factors, axis=0)
    pooled = np.array([product[i : i + rank].sum() for i in range(0, len(product), rank)])
    root = pooled / np.sqrt(np.abs(pooled) + epsilon)
    return root / np.sqrt(np.sum(root**2) + epsilon)


def sequential(p: Arrays, count: int, depth: int, xs: Inputs) -> Arrays:
    """Skips by not running the update at all."""
    state = p["start"]
    steps, befores = [state], []
    for k in range(count):
        befores.append(state if k in xs else np.zeros_like(state))
        if k not in xs:
            steps.append(np.zeros_like(state))
            continue
        h = xs[k]
        for layer in range(depth):
            h = np.tanh(affine(p, f"updates.{k}.hidden.{layer}", h))
        state = affine(p, f"updates.{k}.out", np.concatenate([h, state]))
        steps.append(state)
    return {
        "out": state,
        "steps": np.stack(steps),
        "before": np.stack(befores),
        "after": np.stack(steps[1:]),
    }


def state_change(states: list[dict[int, np.ndarray]]) -> float:
    """MultiModN's penalty, corrected: the mean, over all pairs of a sample and a stage that it has,
    of mean((s_e - s_e-1)^2). `states` holds each sample's states by stage, the start as 0."""
    total, pairs = 0.0, 0
    for by_stage in states:
        stages = sorted(by_stage)
        for before, after in pairwise(stages):
            total += float(np.mean((by_stage[after] - by_stage[before]) ** 2))
            pairs += 1
    return total / pairs

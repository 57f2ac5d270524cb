"""Late fusion and the product of Gaussian experts, one sample at a time, in float64."""

import numpy as np


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def late(combine: str, prior: np.ndarray, xs: dict[int, np.ndarray]) -> np.ndarray:
    """By probabilities, multiplied and divided as such; logarithms only at the end."""
    logits = list(xs.values())
    if combine == "mean_logits":
        return np.mean(logits, axis=0)
    chances = [_softmax(x) for x in logits]
    if combine == "mean_probabilities":
        return np.log(np.mean(chances, axis=0))
    joint = np.prod(chances, axis=0)
    if combine == "product":
        joint = joint / prior ** (len(chances) - 1)
    else:
        joint = joint ** (1 / len(chances))
    return np.log(joint / joint.sum())


def product_of_experts(xs: dict[int, np.ndarray], *, prior: bool) -> dict[str, np.ndarray]:
    pairs = [np.split(x, 2) for x in xs.values()]
    precisions = [1 / np.exp(log_variance) for _, log_variance in pairs]
    total = sum(precisions) + (1.0 if prior else 0.0)
    mean = sum(t * m for t, (m, _) in zip(precisions, pairs, strict=True)) / total
    log_variance = np.log(1 / total)
    both = np.concatenate([mean, log_variance])
    return {"out": both, "mean": mean, "log_variance": log_variance}

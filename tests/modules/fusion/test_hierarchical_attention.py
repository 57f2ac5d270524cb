"""Two residual attentions, one sample at a time, in float64."""

import numpy as np

from fusekit.stream import sequence
from fusekit_modules.fusion.hierarchical_attention import HierarchicalAttentionSpec
from tests.modules.fusion.harness import Case, check
from tests.reference.vectors import affine, softmax


def score(p, name, x):
    return (np.tanh(affine(p, f"{name}.up", x)) @ p[f"{name}.down.kernel"])[..., 0]


def reference(p, xs):
    pooled = {}
    for k, x in xs.items():
        h = affine(p, f"project.{k}", np.atleast_2d(x))
        scores = [0.0] if x.ndim == 1 else score(p, f"elements.{k}", h)
        weights = softmax(dict(enumerate(scores)))
        pooled[k] = h.mean(axis=0) + sum(weights[i] * h[i] for i in range(len(h)))
    chosen = softmax({k: score(p, "modalities", u) for k, u in pooled.items()})
    weights = np.zeros(3)
    for k, weight in chosen.items():
        weights[k] = weight
    out = np.mean(list(pooled.values()), axis=0) + sum(chosen[k] * u for k, u in pooled.items())
    return {"out": out, "weights": weights}


def test_two_levels():
    streams = [sequence(3, 4, label="m0", padded=True), 3, sequence(2, 5, label="m2")]
    check(HierarchicalAttentionSpec(width=4), streams, reference, ports=("out", "weights"))


def test_a_modality_that_is_all_padding_counts_as_absent():
    inputs = {"a": sequence(3, 4, padded=True, optional=True), "b": sequence(2, 4, optional=True)}
    case = Case(HierarchicalAttentionSpec(), inputs)
    arrays = {k: case.rng.normal(size=(2, *s.shape)) for k, s in inputs.items()}
    arrays = {k: np.repeat(x[:1], 2, axis=0) for k, x in arrays.items()}
    case.masks["a"] = np.array([[False] * 3, [True] * 3])
    out = case.run(arrays, np.array([[True, True], [False, True]]))
    for port in ("out", "weights"):
        np.testing.assert_array_equal(out[port].values[0], out[port].values[1])

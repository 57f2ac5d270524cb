"""Graph attention node by node, in float64."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Span, sequence, vector
from fusekit_modules.fusion.graph_attention import GraphAttentionSpec
from tests.modules.fusion.harness import check
from tests.reference.vectors import affine, softmax

LENGTHS = [3, 1, 2]


def layer(p, name, h, owner, edges, last):
    kernel, left, right = p[f"{name}.kernel.kernel"], p[f"{name}.left"], p[f"{name}.right"]
    nodes, heads = [], range(kernel.shape[1])
    for i in range(len(h)):
        parts = []
        for head in heads:
            w = h @ kernel[:, head]
            scores = {}
            for j in range(len(h)):
                same = owner[i] == owner[j]
                if i == j or edges == "all" or same == (edges == "within"):
                    e = left[head] @ w[i] + right[head] @ w[j]
                    scores[j] = e if e > 0 else 0.2 * e
            parts.append(sum(a * w[j] for j, a in softmax(scores).items()))
        if last:
            nodes.append(np.mean(parts, axis=0))
        else:
            x = np.concatenate(parts)
            nodes.append(np.where(x > 0, x, np.exp(x) - 1))
    return np.stack(nodes)


@pytest.mark.parametrize(("edges", "depth"), [("all", 2), ("within", 1), ("between", 1)])
def test_against_loops(edges, depth):
    def reference(p, xs):
        each = {k: affine(p, f"project.{k}", np.atleast_2d(x)) for k, x in xs.items()}
        owner = np.concatenate([np.full(len(x), k) for k, x in each.items()])
        h = np.concatenate(list(each.values()))
        for d in range(depth):
            h = layer(p, f"layers.{d}", h, owner, edges, d == depth - 1)
        out = np.zeros((sum(LENGTHS), h.shape[1]))
        for k in each:
            start = sum(LENGTHS[:k])
            out[start : start + len(each[k])] = h[owner == k]
        return out

    spec = GraphAttentionSpec(width=4, heads=2, depth=depth, edges=edges)
    streams = [sequence(3, 4, label="m0", padded=True), 3, sequence(2, 2, label="m2")]
    check(spec, streams, reference)


def test_nodes_carry_labels():
    out = GraphAttentionSpec().infer({"image.mean": vector(8), "text": sequence(3, 4, label="t")})
    assert out.spans == (Span("image", 1), Span("t", 3))
    assert out.shape == (4, 4)


def test_refuses():
    with pytest.raises(WiringError, match="heads divide"):
        GraphAttentionSpec(heads=4).infer({"a": vector(6)})

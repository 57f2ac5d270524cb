"""Capsules, one sample at a time, in float64."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import vector
from fusekit_modules.fusion.capsules import CapsulesSpec
from tests.modules.fusion.harness import check
from tests.reference.transformer import attention
from tests.reference.vectors import affine

CAPSULES, SIZE = 2, 4
WIDTHS = [3, 2]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def squash(x):
    norm = np.sqrt((x**2).sum(axis=-1, keepdims=True))
    return norm**2 / (1 + norm**2) * x / norm


def primary(p, xs):
    found = {}
    for k, x in xs.items():
        pose = np.tensordot(x, p[f"poses.{k}.kernel"], axes=1) + p[f"poses.{k}.bias"]
        found[k] = pose * sigmoid(affine(p, f"active.{k}", x))[:, None]
    return found


def mapped(p, joint):
    return np.tensordot(joint, p["out.kernel"], axes=2) + p["out.bias"]


def self_attention(p, xs):
    poses = primary(p, xs)
    tokens = np.concatenate(list(poses.values()))
    routed = attention(p, "routing.attention", tokens, tokens)
    active = sigmoid(affine(p, "routing.active", routed)[:, 0])
    chosen = (routed * active[:, None]).reshape(len(xs), CAPSULES, SIZE)
    activations = np.zeros((len(WIDTHS), CAPSULES))
    activations[list(xs)] = active.reshape(len(xs), CAPSULES)
    return {"out": mapped(p, chosen.mean(axis=0)), "activations": activations.reshape(-1)}


def agreement(p, xs):
    votes = [
        [pose @ p["routing.votes"][k, c, j] for j in range(CAPSULES)]
        for k, poses in primary(p, xs).items()
        for c, pose in enumerate(squash(poses))
    ]
    votes, logits = np.array(votes), np.zeros((len(votes), CAPSULES))
    for _ in range(3):
        coupling = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        joint = squash(np.einsum("ij,ijd->jd", coupling, votes))
        logits = logits + np.einsum("ijd,jd->ij", votes, joint)
    lengths = np.sqrt((joint**2).sum(axis=1))
    return {"out": mapped(p, joint), "activations": lengths}


@pytest.mark.parametrize(
    ("routing", "reference"), [("self_attention", self_attention), ("dynamic", agreement)]
)
def test_routing(routing, reference):
    spec = CapsulesSpec(capsules=CAPSULES, size=SIZE, heads=2, routing=routing, width=3)
    check(spec, WIDTHS, reference, ports=("out", "activations"))


def test_refuses():
    with pytest.raises(WiringError, match="heads divide"):
        CapsulesSpec(size=6).infer({"a": vector(3), "b": vector(3)})

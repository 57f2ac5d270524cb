"""MaxSim, token by token."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Span, sequence
from fusekit_modules.fusion.late_interaction import LateInteractionSpec
from tests.modules.fusion.harness import (
    Case,
    compare_garbage,
    compare_signatures,
    inputs_of,
    pad,
    patterns,
)

SPANS = (Span("image", 2), Span("speech", 2))
PORTS = ("out", "by_label")


def unit(x):
    return x / np.linalg.norm(x)


def maxsim(p, query, item, mean):
    if "project.0.kernel" in p:
        query, item = query @ p["project.0.kernel"], item @ p["project.1.kernel"]
    each = [max([unit(q) @ unit(t) for t in item], default=-1.0) for q in query]
    return np.mean(each) if mean else np.sum(each)


@pytest.mark.parametrize(("width", "reduce"), [(None, "sum"), (3, "mean")])
def test_against_loops(width, reduce):
    item = sequence(4, 3, spans=SPANS, padded=True, optional=True)
    query = sequence(3, 3 if width is None else 2, label="text", padded=True, optional=True)
    case = Case(LateInteractionSpec(width=width, reduce=reduce), {"q": query, "item": item})
    presence = np.concatenate([patterns(2), np.ones((2, 2), bool)])
    arrays = inputs_of(case, len(presence))
    pad(case, len(presence))
    case.masks["item"][4] = [False, False, True, True]
    whole = {"q": np.arange(3), "item": np.arange(4)}

    def expected(p, arrays):
        out, by_label = np.zeros((6, 1)), np.zeros((6, 2))
        for b, present in enumerate(presence):
            if not present.all():
                continue
            q, t = (whole[role][case.masks[role][b]] for role in ("q", "item"))
            tokens = arrays["item"][b]
            for out_, entry, chosen in (
                (out, 0, t),
                (by_label, 0, t[t < 2]),
                (by_label, 1, t[t >= 2]),
            ):
                out_[b, entry] = maxsim(p, arrays["q"][b][q], tokens[chosen], reduce == "mean")
        return {"out": out, "by_label": by_label}

    found, want = case.run(arrays, presence), expected(case.parameters, arrays)
    narrow = case.run(arrays, presence, "float32")
    for port in PORTS:
        np.testing.assert_allclose(found[port].values, want[port], rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(found[port].presence, presence.all(axis=1))
        np.testing.assert_allclose(narrow[port].values, want[port], rtol=1e-5, atol=1e-5)
    compare_garbage(case, arrays, presence, PORTS)
    compare_signatures(case, arrays, presence)
    weights = {port: case.rng.normal(size=found[port].values.shape) for port in PORTS}
    grads = case.gradients(arrays, presence, weights)

    def total(p, xs):
        want = expected(p, xs)
        return sum(np.sum(want[port] * weights[port]) for port in PORTS)

    for given, by, other in (
        (case.parameters, grads[0], lambda leaf: total(leaf, arrays)),
        (arrays, grads[1], lambda leaf: total(case.parameters, leaf)),
    ):
        for name, leaf in given.items():
            step = 1e-6 * case.rng.normal(size=leaf.shape)
            ahead, behind = (other({**given, name: leaf + s * step}) for s in (1, -1))
            np.testing.assert_allclose(2 * np.sum(by[name] * step), ahead - behind, rtol=1e-5)


def test_the_same_tokens_score_their_number():
    case = Case(LateInteractionSpec(), {"q": sequence(3, 4), "item": sequence(3, 4)})
    x = case.rng.normal(size=(2, 3, 4))
    np.testing.assert_allclose(case.run({"q": x, "item": x}, None)["out"].values, [[3], [3]])


def test_refuses():
    with pytest.raises(WiringError, match="differ in embed"):
        LateInteractionSpec().infer({"a": sequence(2, 3), "b": sequence(2, 4)})
    with pytest.raises(WiringError, match="number of inputs"):
        LateInteractionSpec().infer({"a": sequence(2, 3)})
    assert LateInteractionSpec(width=2).infer({"a": sequence(2, 3), "b": sequence(2, 4)})

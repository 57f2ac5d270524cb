"""The querying transformer against float64 NumPy."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence
from fusekit_modules.fusion.q_former import QFormerSpec
from tests.modules.fusion import harness
from tests.reference.transformer import attention, mlp, norm

SMALL = {"tokens": 2, "depth": 2, "heads": 2, "hidden": 3}


def self_attention(p, name, x, reads):
    """Each token reads those that `reads` allows: `[n, n]` booleans."""
    each = [attention(p, name, x[i : i + 1], x[reads[i]]) for i in range(len(x))]
    return np.concatenate(each)


def transformed(p, source, text, windows, *, causal=False, depth=2):
    """Queries and text at the end. `source` is a list of windows, or None where it is absent."""
    queries = len(p["queries.tokens"])
    tokens, owner = [], []
    for number, window in enumerate(source or []):
        if len(window):
            tokens.append(p["queries.tokens"])
            owner += [number] * queries
    n = len(owner)
    if text is not None:
        tokens.append(text)
        owner += [windows] * len(text)
    h, owner = norm(p, "norm", np.concatenate(tokens)), np.array(owner)
    reads = np.ones((len(h), len(h)), bool)
    if causal:
        reads = owner[None] <= owner[:, None]
        reads[n:, n:] = np.tril(reads[n:, n:])
    for layer in range(depth):
        name = f"layers.{layer}"
        mixed = self_attention(p, f"{name}.attention", h, reads)
        a = norm(p, f"{name}.attention_norm", h + mixed)
        q, t = a[:n], a[n:]
        if layer % 2 == 0 and n:
            seen = [attention(p, f"{name}.cross", q[i : i + 1], source[owner[i]]) for i in range(n)]
            q = norm(p, f"{name}.cross_norm", q + np.concatenate(seen))
        q = norm(p, f"{name}.mlp_norm", q + mlp(p, f"{name}.mlp", q))
        if len(t):
            t = norm(p, f"{name}.text_norm", t + mlp(p, f"{name}.text_mlp", t))
        h = np.concatenate([q, t])
    out = np.zeros((windows * queries, h.shape[1]))
    for i in range(n):
        out[owner[i] * queries + i % queries] = h[i]
    return out, h[n:]


def compare(spec, inputs, reference, ports, *, values_only=False):
    """As `harness.check`, with roles of our own."""
    inputs = {role: signature.with_(optional=True) for role, signature in inputs.items()}
    case = harness.Case(spec, inputs)
    presence = harness.patterns(len(inputs))
    arrays = harness.inputs_of(case, len(presence))
    harness.pad(case, len(presence))
    harness.compare_values(case, arrays, presence, reference, ports)
    if values_only:
        return
    harness.compare_gradients(case, arrays, presence, reference, ports, "$^")
    harness.compare_garbage(case, arrays, presence, ports)
    harness.compare_signatures(case, arrays, presence)


def test_queries_alone():
    spec = QFormerSpec(inputs=["m0"], width=5, inner=4, **SMALL)  # pyright: ignore

    def reference(p, xs):
        x = norm(p, "source_norm", xs[0]) @ p["source_proj.kernel"] + p["source_proj.bias"]
        out, _ = transformed(p, [x], None, 1)
        return out @ p["out.kernel"] + p["out.bias"]

    given = {"m0": sequence(3, 6, label="m0", padded=True)}
    compare(spec, given, reference, ("out",), values_only=True)


@pytest.mark.parametrize("causal", [False, True])
def test_text_shares_the_self_attention(causal):
    """The role `out` is that of the source, so that the port is present where the source is."""
    roles = {"out": "image", "text": "words"}
    spec = QFormerSpec(inputs=roles, causal=causal, text_port=True, **SMALL)  # pyright: ignore

    def reference(p, xs):
        source = [norm(p, "source_norm", xs[0])] if 0 in xs else None
        text = xs[1] @ p["text_proj.kernel"] + p["text_proj.bias"] if 1 in xs else None
        queries, words = transformed(p, source, text, 1, causal=causal)
        return {"out": queries, "text": harness.filled(words, 3, 4)}

    image = sequence(3, 4, label="image", padded=True)
    inputs = {"out": image, "text": sequence(3, 6, label="words", padded=True)}
    compare(spec, inputs, reference, ("out", "text"), values_only=not causal)


@pytest.mark.parametrize("causal", [False, True])
def test_windows(causal):
    spec = QFormerSpec(inputs=["m0"], window=2, causal=causal, **SMALL)  # pyright: ignore

    def reference(p, xs):
        x = norm(p, "source_norm", xs[0])
        out, _ = transformed(p, [x[:2], x[2:]], None, 2, causal=causal)
        return out

    given = {"m0": sequence(4, 4, label="m0", padded=True)}
    compare(spec, given, reference, ("out",), values_only=not causal)


def test_text_that_does_not_come_out():
    """What the text would become in the last layer has no weights, and the rest is reached."""
    spec = QFormerSpec(inputs={"source": "image", "text": "words"}, **SMALL)  # pyright: ignore
    inputs = {"source": sequence(3, 4, label="image"), "text": sequence(2, 4, label="words")}
    case = harness.Case(spec, inputs)
    assert not any("layers.1.text" in path for path in case.parameters)
    arrays, presence = harness.inputs_of(case, 2), np.ones((2, 2), bool)
    weights = {"out": case.rng.normal(size=(2, 2, 4))}
    grads, _ = case.gradients(arrays, presence, weights)
    assert all(np.linalg.norm(grad) > 1e-8 for grad in grads.values())


def test_a_list_has_no_text():
    spec = QFormerSpec(inputs=["text"], **SMALL)  # pyright: ignore
    assert spec.infer({"text": sequence(3, 4, label="text")}).length == 2


def test_refuses():
    given = sequence(3, 4, label="a")
    roles = {"source": "a", "text": "b"}
    with pytest.raises(WiringError, match="nothing reads the text"):
        QFormerSpec(inputs=roles, causal=True).infer({"source": given, "text": given})  # pyright: ignore
    with pytest.raises(WiringError, match="comes out where"):
        QFormerSpec(text_port=True).infer({"a": given})
    with pytest.raises(WiringError, match="windows do not divide"):
        QFormerSpec(window=2).infer({"a": given})
    with pytest.raises(WiringError, match="heads do not divide"):
        QFormerSpec(heads=3).infer({"a": given})

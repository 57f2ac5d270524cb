"""Ports of streams in which something is missing: signature and stream agree on what is there."""

import jax.numpy as jnp
import numpy as np
import pytest

import fusekit
from fusekit.errors import WiringError
from fusekit.graph.node import Key
from fusekit.graph.select import select_signature, select_stream
from fusekit.program import Program
from fusekit.stream import Span, Stream, concatenate, concatenate_signatures, sequence

A = sequence(2, 3, label="a", optional=True)
B = sequence(2, 3, spans=(Span("b", 1, readout=True), Span("b", 1)), padded=True)
HERE = np.array([True, False, True])
MASK = np.array([[True, True], [True, False], [False, False]])


def joined():
    values = np.random.default_rng(0).normal(size=(2, 3, 2, 3))
    a = Stream(jnp.asarray(values[0]), presence=jnp.asarray(HERE), spans=A.spans)
    b = Stream(jnp.asarray(values[1]), mask=jnp.asarray(MASK), spans=B.spans)
    return concatenate([a.clean(), b.clean()]), concatenate_signatures([A, B]), values


@pytest.mark.parametrize("reduction", ["mean", "first", "last"])
@pytest.mark.parametrize(("label", "present"), [("a", HERE), ("b", MASK[:, 1])])
def test_a_span_is_absent_where_its_modality_is(reduction, label, present):
    stream, signature, values = joined()
    for ports in ((label,), (label, reduction)):
        assert select_signature(signature, ports, "joint").optional
        np.testing.assert_array_equal(select_stream(stream, ports).presence, present)
    got = select_stream(stream, (label, reduction)).values
    own = {"mean": values[0].mean(1), "first": values[0][:, 0], "last": values[0][:, 1]}[reduction]
    own = own if label == "a" else values[1][:, 1]
    np.testing.assert_allclose(got, np.where(present[:, None], own, 0), rtol=1e-6)


def test_a_readout_token_that_came_with_one_of_several():
    stream, signature, values = joined()
    assert select_signature(signature, ("readout",), "joint").optional
    out = select_stream(stream, ("readout",))
    np.testing.assert_array_equal(out.presence, MASK[:, 0])
    np.testing.assert_allclose(out.values, np.where(MASK[:, :1], values[1][:, 0], 0), rtol=1e-6)


def test_a_stacks_own_readout_token_is_always_there():
    for spans in (B.spans, (Span("readout", 1, readout=True), Span("a", 1), Span("b", 1))):
        given = sequence(sum(s.size for s in spans), 3, spans=spans, padded=True)
        assert not select_signature(given, ("readout",), "x").optional
        values = jnp.ones((2, given.length, 3))
        out = select_stream(
            Stream(values, jnp.ones(values.shape[:2], bool), spans=spans), ("readout",)
        )
        assert out.presence is None


def test_what_is_not_padded_has_no_presence():
    given = concatenate_signatures([sequence(2, 3, label="a"), sequence(1, 3, label="b")])
    assert not select_signature(given, ("a", "mean"), "joint").optional
    stream = Stream(jnp.ones((2, 3, 3)), spans=given.spans)
    assert select_stream(stream, ("a", "mean")).presence is None
    with pytest.raises(WiringError, match="no port c"):
        select_signature(given, ("c",), "joint")


@pytest.mark.parametrize(
    ("fusion", "reference"),
    [
        ({"type": "concat", "axis": "sequence", "inputs": ["batch.a", "batch.b"]}, "joint.a.mean"),
        ({"type": "early", "heads": 1, "inputs": ["batch.a", "batch.b"]}, "joint.tokens.a.mean"),
        ({"type": "sequential", "width": 4, "inputs": ["va", "vb"]}, "joint.steps.va.mean"),
    ],
)
def test_a_head_that_reads_a_span_of_an_absent_modality_is_absent(fusion, reference):
    encoders = {
        f"v{m}": {"type": "projection", "width": 4, "input": f"batch.{m}.mean"} for m in "ab"
    }
    experiment = fusekit.experiment(
        modalities={
            "a": {"type": "features", "length": 2, "width": 3, "optional": True},
            "b": {"type": "features", "length": 2, "width": 3},
            "label": {"type": "label", "classes": 3},
        },
        encoders=encoders if fusion["type"] == "sequential" else {},
        fusion={"joint": fusion},
        heads={"y": {"type": "classifier", "input": reference, "classes": 3}},
        losses={"fit": {"type": "cross_entropy", "prediction": "y", "target": "batch.label"}},
    )
    graph = fusekit.resolve(experiment)
    assert graph.signatures[Key("out", "y")].optional
    program = Program(graph, steps=2)
    batch = {
        "a": Stream(np.ones((3, 2, 3), "float32"), np.ones((3, 2), bool), HERE),
        "b": Stream(np.ones((3, 2, 3), "float32")),
        "label": Stream(np.zeros(3, "int32")),
    }
    out = program.predict(program.init(0), batch)["y"]
    np.testing.assert_array_equal(out.presence, HERE)
    assert not np.any(np.asarray(out.values)[1])


def test_spans_of_marks_and_codes():
    """A mask over several modalities is read by label too; it has no reductions."""
    stream, signature, _ = joined()
    marks = stream.with_(values=jnp.arange(12).reshape(3, 4) % 2 == 0)
    kind = signature.with_(sizes=(("time", 4),), dtype="bool")
    found = select_signature(kind, ("a",), "hidden")
    assert (found.sizes, found.spans, found.optional) == ((("time", 2),), A.spans, True)
    out = select_stream(marks, ("a",))
    np.testing.assert_array_equal(out.values, [[True, False]] * 3)
    np.testing.assert_array_equal(out.presence, HERE)
    np.testing.assert_array_equal(select_stream(marks, ("b",)).values, [[False]] * 3)
    for port in ("mean", "readout", "c"):
        with pytest.raises(WiringError, match=f"no port {port}"):
            select_signature(kind, (port,), "hidden")

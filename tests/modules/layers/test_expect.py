"""What is suggested in place of a stream that does not fit exists."""

import re

import pytest

from fusekit.errors import WiringError
from fusekit.graph.select import select_signature
from fusekit.stream import Signature, Span, sequence
from fusekit_modules.layers.expect import expect_vector

READOUT = (Span("readout", 1, readout=True), Span("image", 3))
SEVERAL = (Span("readout", 2, readout=True), Span("image", 3))
STREAMS = {
    "sequence": (sequence(4, 8), [".mean", ".first", ".last"]),
    "readout": (sequence(4, 8, spans=READOUT), [".mean", ".first", ".last", ".readout"]),
    "several": (sequence(5, 8, spans=SEVERAL), [".mean", ".first", ".last", ".readout.mean"]),
    "codes": (Signature((("time", 4),), dtype="int", spans=(Span("text", 4),)), []),
    "grid": (Signature((("height", 4), ("width", 4), ("channel", 3))), [".mean"]),
    "table": (Signature((("field", 4),)), []),
    "number": (Signature(()), []),
}


@pytest.mark.parametrize(("signature", "ports"), STREAMS.values(), ids=STREAMS)
def test_only_ports_that_a_stream_has_are_suggested(signature, ports):
    with pytest.raises(WiringError) as caught:
        expect_vector(signature, "x")
    named = re.findall(r"(?:\.[a-z]+)+", caught.value.problem.expected)
    assert named == ports
    for port in named:
        read = select_signature(signature, tuple(port[1:].split(".")), f"x{port}")
        assert expect_vector(read, "x").width == signature.width


def test_an_unknown_port_suggests_readout_only_where_there_is_one():
    for spans, readout in ((READOUT, True), ((Span("image", 4),), False)):
        with pytest.raises(WiringError) as caught:
            select_signature(sequence(4, 8, spans=spans), ("redout",), "x.redout")
        assert ("readout" in caught.value.problem.expected) is readout
        assert ("readout" in caught.value.problem.nearest) is readout

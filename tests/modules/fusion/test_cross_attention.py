"""Cross-attention against a float64 reference, and what it does where there is nothing to read."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import Span, sequence, vector
from fusekit_modules.fusion.cross_attention import CrossAttentionSpec
from tests.modules.fusion.harness import Case, check
from tests.modules.fusion.inside import hold
from tests.modules.fusion.lockstep import Lockstep
from tests.reference import inside, operators

RICH = {"gate": "tanh", "hidden": 3}


@pytest.mark.parametrize(
    ("act", "fields"), [("inside", {}), pytest.param("before", RICH, marks=pytest.mark.slow)]
)
def test_two_stacks_read_one_another(act, fields):
    places, lengths = (0, 2), [3, 2]
    spec = Lockstep(CrossAttentionSpec(heads=2, act=act, **fields), depth=3, places=places)

    def reference(p, xs):
        return operators.cross_attention(p, lengths, 3, places, xs, act=act, given=2)

    streams = [sequence(3, 4, label="m0", padded=True), sequence(2, 4, label="m1")]
    check(spec, streams, reference, ports=("m0", "m1"))


@pytest.mark.parametrize(("act", "fields"), [("inside", RICH), ("before", {})])
def test_one_stack_reads_others_of_another_width(act, fields):
    operator = CrossAttentionSpec(inputs=["m1", "m2"], heads=2, act=act, **fields)  # pyright: ignore
    spec = Lockstep(operator, depth=2, places=(1,), reads=2)

    def reference(p, xs):
        return operators.cross_attention(p, [3], 2, (1,), xs, act=act, given=3)

    streams = [
        sequence(3, 4, label="m0"),
        sequence(2, 6, label="m1", padded=True),
        sequence(2, 6, label="m2"),
    ]
    check(spec, streams, reference, ports=("m0",))


def test_what_tokens_see_by_a_rule():
    """Positions count from 0 in each stream, and two tokens of `y` are an item."""

    def sees(i, t):
        return t // 2 == i // 2 if i < 3 else False

    def form(p, own, x, xs):
        return inside.crossed(p, own, x, xs.get(1, np.zeros((0, 4))), sees)

    attend = {"a": {"y": "latest"}, "b": ()}
    spec = CrossAttentionSpec(inputs=["y"], heads=2, act="before", attend=attend, **RICH)  # pyright: ignore
    streams = [
        sequence(4, 4, spans=(Span("a", 3), Span("b", 1))),
        sequence(4, 4, spans=(Span("y", 4, items=2),)),
    ]
    hold(spec, streams, inside.edited(form, [4], 4), reads=1)


def test_a_closed_gate_changes_nothing():
    inputs = {"m0": sequence(3, 4, label="m0"), "m1": sequence(2, 4, label="m1")}
    operator = CrossAttentionSpec(inputs=["m1"], heads=2, **RICH)  # pyright: ignore
    case = Case(Lockstep(operator, depth=1, places=(0,), reads=1), inputs)
    case.parameters = {
        path: np.zeros_like(a) if "gates" in path else a for path, a in case.parameters.items()
    }
    plain = Case(Lockstep(operator, depth=1, places=(), reads=1), inputs)
    plain.parameters = {path: case.parameters[path] for path in plain.parameters}
    arrays = {name: case.rng.normal(size=(2, s.length, 4)) for name, s in inputs.items()}
    one, other = case.run(arrays, None), plain.run(arrays, None)
    np.testing.assert_allclose(one["m0"].values, other["m0"].values, rtol=1e-12)


def test_refuses():
    spec = CrossAttentionSpec(heads=2)
    with pytest.raises(WiringError, match="nothing to read"):
        spec.infer_edit((sequence(2, 4),), {})
    with pytest.raises(WiringError, match="heads do not divide"):
        spec.infer_edit((sequence(2, 5), sequence(2, 5)), {})
    with pytest.raises(WiringError, match="differ in embed"):
        spec.infer_edit((sequence(2, 4), sequence(2, 6)), {})
    two = (sequence(2, 4, label="a"), sequence(2, 4, label="b"))
    with pytest.raises(WiringError, match="no token that is read"):
        CrossAttentionSpec(heads=2, attend="c").infer_edit(two, {})
    with pytest.raises(WiringError, match="sequence is due"):
        spec.infer_edit((sequence(2, 4),), {"y": vector(4)})

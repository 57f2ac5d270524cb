"""Concatenation: contents, absence and what early fusion relies on."""

import numpy as np
import pytest

from fusekit.errors import WiringError
from fusekit.stream import sequence, vector
from fusekit_modules.fusion.concat import ConcatSpec
from tests.modules.fusion.harness import Case, check, filled


def by_channel(widths, missing=None):
    def reference(p, xs):
        return np.concatenate(
            [
                xs[k] if k in xs else missing(p, k) if missing else np.zeros(width)
                for k, width in enumerate(widths)
            ]
        )

    return reference


def test_channel():
    check(ConcatSpec(), [3, 2, 4], by_channel([3, 2, 4]))


def test_channel_learned_vectors_stand_for_the_absent():
    reference = by_channel([3, 2, 4], lambda p, k: p[f"missing.{k}"])
    check(ConcatSpec(absent="learned"), [3, 2, 4], reference)


def test_only_optional_inputs_get_a_learned_vector_named_by_their_number():
    """So that making one input optional renames nobody's parameter."""
    case = Case(ConcatSpec(absent="learned"), {"a": vector(3), "b": vector(2, optional=True)})
    assert {path: leaf.shape for path, leaf in case.parameters.items()} == {"missing.1": (2,)}


def test_sequence_is_one_after_another():
    def reference(p, xs):
        return np.concatenate([filled(xs.get(k), n, 3) for k, n in enumerate([2, 3, 4])])

    streams = [
        sequence(2, 3, label="m0", padded=True),
        sequence(3, 3, label="m1"),
        sequence(4, 3, label="m2", padded=True),
    ]
    check(ConcatSpec(axis="sequence"), streams, reference)


def test_sequence_turns_absence_into_padding():
    inputs = {
        "a": sequence(2, 3, label="a", optional=True),
        "b": sequence(3, 3, label="b"),
    }
    case = Case(ConcatSpec(axis="sequence"), inputs)
    presence = np.array([[True, True], [False, True]])
    arrays = {"a": np.full((2, 2, 3), np.nan), "b": case.rng.normal(size=(2, 3, 3))}
    arrays["a"][0] = 1.0
    out = case.run(arrays, presence)["out"]
    np.testing.assert_array_equal(out.mask, [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    np.testing.assert_allclose(out.span("b").values, arrays["b"])
    np.testing.assert_array_equal(out.span("a").values, [np.ones((2, 3)), np.zeros((2, 3))])
    signature = case.spec.infer(inputs)
    assert (signature.shape, signature.padded, signature.optional) == ((5, 3), True, False)
    assert signature.spans == out.spans
    assert out.presence is None


def test_concat_refuses():
    with pytest.raises(WiringError) as error:
        ConcatSpec().infer({"a": sequence(2, 3), "b": vector(3)})
    assert error.value.problem.path == ("inputs", "a")
    with pytest.raises(WiringError, match="differ in embed"):
        ConcatSpec(axis="sequence").infer({"a": sequence(2, 3), "b": sequence(2, 4)})
    with pytest.raises(WiringError, match="padding"):
        ConcatSpec(axis="sequence", absent="learned").infer({"a": sequence(2, 3)})

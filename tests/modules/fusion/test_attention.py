"""Set attention and pairwise attention against float64 references."""

import jax.numpy as jnp
import numpy as np
import pytest

from fusekit.context import Context
from fusekit.errors import WiringError
from fusekit.stream import Stream, sequence, vector
from fusekit_modules.fusion.pairwise_attention import PairwiseAttentionSpec, causal_mask
from fusekit_modules.fusion.set_attention import SetAttentionSpec
from tests.modules.fusion.harness import Case, check
from tests.reference import attention_fusion


def test_set_transformer():
    spec = SetAttentionSpec(width=4, heads=2, depth=2, hidden=3)
    check(spec, [3, 2, 4], lambda p, xs: attention_fusion.set_transformer(p, 2, xs))


def test_deep_set():
    spec = SetAttentionSpec(form="deep_set", width=4, hidden=3)
    check(spec, [3, 2, 4], lambda p, xs: attention_fusion.deep_set(p, xs))


def test_heads_divide_the_width():
    with pytest.raises(WiringError, match="heads divide"):
        SetAttentionSpec(heads=4).infer({"a": vector(6), "b": vector(6)})


PAIRWISE = {"width": 4, "heads": 2, "depth": 2, "self_depth": 1}


def pairwise_reference(lengths, names, **options):
    def reference(p, xs):
        return attention_fusion.pairwise(p, names, lengths, xs, self_depth=1, **options)

    return reference


def test_pairwise_with_unequal_lengths():
    reference = pairwise_reference([3, 2], ["m0", "m1"], depth=2, include_self=False)
    streams = [sequence(3, 3, label="m0", padded=True), sequence(2, 2, label="m1")]
    check(PairwiseAttentionSpec(**PAIRWISE), streams, reference, ports=("out", "m0", "m1"))


@pytest.mark.slow
def test_pairwise_with_itself():
    options = {"include_self": True, "causal": True}
    reference = pairwise_reference([4, 2], ["m0", "m1"], depth=1, pool="mean", **options)
    streams = [sequence(4, 3, label="m0", padded=True), sequence(2, 2, label="m1", padded=True)]
    spec = PairwiseAttentionSpec(**{**PAIRWISE, "depth": 1}, pool="mean", **options)
    check(spec, streams, reference, ports=("out", "m0", "m1"))


def test_causal_tokens_read_no_later_ones():
    """Up to the difference of lengths: the last token of a target reads the whole source."""
    np.testing.assert_array_equal(causal_mask(2, 3), [[1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(causal_mask(3, 2), [[1, 1], [1, 1], [1, 1]])
    np.testing.assert_array_equal(causal_mask(3, 3), np.tril(np.ones((3, 3))))


@pytest.mark.slow
def test_pairwise_of_three_with_padding():
    lengths, names, valid = [4, 2, 3], ["a", "b", "c"], [2, 2, 1]
    inputs = {
        "batch.a": sequence(4, 3, label="a", padded=True),
        "b@2": sequence(2, 2, label="b"),
        "c": sequence(3, 2, label="c", padded=True),
    }
    case = Case(PairwiseAttentionSpec(**PAIRWISE), inputs)
    arrays = [case.rng.normal(size=(2, *s.shape)) for s in inputs.values()]

    def run(garbage):
        streams = {}
        for (role, signature), array, count in zip(inputs.items(), arrays, valid, strict=True):
            mask = np.arange(signature.length) < count
            full = np.where(mask[:, None], array, garbage).astype("float32")
            mask = jnp.asarray(np.broadcast_to(mask, array.shape[:2])) if signature.padded else None
            streams[role] = Stream(jnp.asarray(full), mask=mask, spans=signature.spans)
        return case.call(as_float32(case), streams)

    out, dirty = run(0.0), run(np.nan)
    for row in range(2):
        xs = {k: array[row, : valid[k]] for k, array in enumerate(arrays)}
        want = attention_fusion.pairwise(
            case.parameters, names, lengths, xs, depth=2, self_depth=1, include_self=False
        )
        for port, value in want.items():
            np.testing.assert_allclose(out[port].values[row], value, rtol=2e-4, atol=2e-4)
    for port in out:
        np.testing.assert_array_equal(out[port].values, dirty[port].values)
    assert (out["a"].mask is None, out["b"].mask is None) == (False, True)


def as_float32(case):
    return {path: jnp.asarray(leaf, jnp.float32) for path, leaf in case.parameters.items()}


def test_pairwise_dropout_only_in_training():
    inputs = {"a": sequence(2, 3), "b": sequence(3, 3)}
    case = Case(PairwiseAttentionSpec(**PAIRWISE, dropout=0.5), inputs)
    arrays = {role: case.rng.normal(size=(2, *s.shape)) for role, s in inputs.items()}
    streams = case.streams({k: a.astype("float32") for k, a in arrays.items()}, None)
    calm = case.call(as_float32(case), streams, "evaluate")["out"].values
    assert Context().training is False
    noisy = case.call(as_float32(case), streams, "train")["out"].values
    again = case.call(as_float32(case), streams, "train")["out"].values
    np.testing.assert_array_equal(noisy, again)
    assert not np.allclose(calm, noisy)


def test_pairwise_refuses():
    spec = PairwiseAttentionSpec(**PAIRWISE)
    with pytest.raises(WiringError, match="clash"):
        spec.infer({"a@1": sequence(2, 3), "a@2": sequence(2, 3)})
    with pytest.raises(WiringError) as error:
        spec.infer({"a": sequence(2, 3), "b": vector(3)})
    assert error.value.problem.path == ("inputs", "b")
    with pytest.raises(WiringError, match="heads divide"):
        PairwiseAttentionSpec(width=6).infer({"a": sequence(2, 3), "b": sequence(2, 3)})

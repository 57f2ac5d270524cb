"""`joint_attention` and `mask` against loops over tokens."""

import jax.numpy as jnp
import pytest
from flax import nnx

from fusekit.context import Context
from fusekit.errors import FusekitError, WiringError
from fusekit.stream import Span, Stream, sequence
from fusekit_modules.fusion.joint_attention import JointAttentionSpec
from fusekit_modules.fusion.mask import MaskSpec
from fusekit_modules.layers.block import Block
from tests.modules.fusion.inside import hold
from tests.reference import inside

TWO = [sequence(3, 4, label="a", padded=True), sequence(2, 4, label="b")]


def test_two_stacks_attend_together():
    def form(p, own, x, xs):
        return inside.joint(p, own, x, xs, lambda k, i, j, t: True)

    hold(JointAttentionSpec(), TWO, inside.edited(form, [3, 2], 4))


def test_three_stacks_by_a_rule():
    """Positions count from 0 in each: of others an equal one is seen. Tokens of `c` see none of
    their own, and `a` is all that they see."""
    attend = {"a": "causal", "b": ("causal", "c"), "c": ("a",)}

    def sees(k, i, j, t):
        causal = t <= i
        return {0: causal, 1: causal or j == 2, 2: j == 0}[k]

    def form(p, own, x, xs):
        return inside.joint(p, own, x, xs, sees)

    streams = [TWO[0].with_(padded=False), TWO[1], sequence(1, 4, label="c")]
    hold(JointAttentionSpec(attend=attend), streams, inside.edited(form, [3, 2, 1], 4))  # pyright: ignore


def test_a_mask_narrows():
    spans = (Span("a", 2), Span("b", 1))

    """Tokens of `b` see nothing, those of `a` their past."""
    spec = MaskSpec(attend={"a": {"a": "causal", "b": "none"}, "b": ()})

    def narrow(p, own, x, xs):
        return inside.joint(p, own, x, xs, lambda k, i, j, t: i < 2 and t <= i)

    hold(spec, [sequence(3, 4, spans=spans)], inside.edited(narrow, [3], 4))


def test_refuses():
    with pytest.raises(WiringError, match="number of inputs"):
        JointAttentionSpec().infer_edit((sequence(3, 4),), {})
    with pytest.raises(WiringError, match="differ in embed"):
        JointAttentionSpec().infer_edit((sequence(3, 4), sequence(3, 5)), {})
    with pytest.raises(WiringError, match="not said what tokens of b see"):
        JointAttentionSpec(attend={"a": "causal"}).infer_edit(tuple(TWO), {})
    with pytest.raises(WiringError, match="no token that is read"):
        MaskSpec(attend="d").infer_edit((TWO[0],), {})


def test_layers_whose_heads_differ_are_refused():
    three = tuple(sequence(1, 4, label=x) for x in "abc")
    module = JointAttentionSpec().build_operator(three, {}, rngs=nnx.Rngs(0))
    blocks = [Block(4, heads, hidden=2, rngs=nnx.Rngs(0)) for heads in (2, 2, 1)]
    streams = tuple(Stream(jnp.ones((1, 1, 4)), spans=s.spans) for s in three)
    with pytest.raises(FusekitError, match="heads differ"):
        module.enter(streams, {}, (), layers=blocks, context=Context())
    with pytest.raises(FusekitError, match="no `keys_values`"):
        module.enter(streams, {}, (), layers=[nnx.Module()] * 3, context=Context())

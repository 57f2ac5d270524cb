"""`lora` against kernels that are changed by hand; B is random here, as all parameters are."""

import pytest
from flax import nnx

from fusekit.errors import WiringError
from fusekit.stream import sequence
from fusekit_modules.fusion.lora import LoraSpec
from tests.modules.fusion.inside import entering, hold
from tests.reference import inside

ATTENTION = ("attention.query", "attention.key", "attention.value", "attention.out")


def test_every_projection_of_two_stacks():
    names = (*ATTENTION, "mlp.up", "mlp.down")

    def form(p, own, x, xs):
        return inside.lora(p, own, x, names, 3 / 2)

    spec = LoraSpec(rank=2, alpha=3, targets=("feed_forward", "attention"))
    streams = [sequence(3, 4, label="a", padded=True), sequence(2, 4, label="b")]
    hold(spec, streams, inside.edited(form, [3, 2], 4))


def test_targets():
    stream = entering(sequence(3, 4))
    LoraSpec(targets=("attention.key", "feed_forward.up")).infer_edit((stream,), {})
    with pytest.raises(WiringError, match="no such projection") as error:
        LoraSpec(targets=("attention", "feed_forward.gate")).infer_edit((stream,), {})
    problem = error.value.problem
    assert problem.path == ("targets", 1)
    assert problem.nearest
    assert set(problem.nearest) <= {"feed_forward", "feed_forward.up", "feed_forward.down"}
    with pytest.raises(WiringError, match="do not tell what they project"):
        LoraSpec().infer_edit((sequence(3, 4),), {})


def test_nothing_changes_at_first():
    spec = LoraSpec(rank=2, share=True)
    module = spec.build_operator((entering(sequence(3, 4)),), {}, rngs=nnx.Rngs(0))
    for factors in module.factors[0]:  # pyright: ignore
        assert not factors.b[...].any()
        assert factors.a[...].any()

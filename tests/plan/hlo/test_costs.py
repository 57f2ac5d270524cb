"""The costs of a whole program against figures worked by hand."""

import pytest

from fusekit.plan.hlo import Collective, costs
from fusekit.plan.hlo.scopes import scope_in
from tests.support.hlo import computation, text


def test_a_program_with_one_of_everything(rich: str) -> None:
    """A scan of 6 turns over layers on a mesh of 2 x 2, a branch, a copy, two collectives."""
    found = costs(rich, {"data": 2, "tensor": 2})
    assert found.cycles == 6 * 700
    assert found.cycles_by_scope == {"image": 6 * 700}
    # per turn [8, 16] x [16, 32]; the branch [8, 16] x [16, 8]
    assert found.dot_flops_by_scope == {"image": 6 * 2 * 8 * 16 * 32, "": 2 * 8 * 16 * 8}
    assert found.dot_flops == 6 * 2 * 8 * 16 * 32 + 2 * 8 * 16 * 8
    assert found.unknown_loops == {}
    assert found.unestimated == {
        "add": 6,
        "compare": 6,
        "fusion all-reduce": 6,
        "dot": 1,
        "copy-start": 1,
        "collective-permute": 1,
        "all-gather": 1,
        "custom-call tpu_custom_call": 1,
    }
    assert found.custom_calls == {"tpu_custom_call": 1}
    assert found.custom_flops == 42
    # [8, 32] in bf16 is 512 bytes, [8, 8] is 128
    assert found.collectives == (
        Collective("reduce-scatter", 256, 2, ("tensor",), False, 6, "image"),
        Collective("collective-permute", 128, 2, ("tensor",), False, 1, ""),
        Collective("all-gather", 128, 2, ("tensor",), False, 1, ""),
    )
    assert found.ici_bytes_by_axes == {("tensor",): 6 * 256 + 128 + 128}
    turn = (
        12  # add: two counters read, one written
        + 256 + 1024 + 4  # the product: [8, 16], one layer [16, 32], the counter; result on chip
        + 256  # the reduced part, written
        + 9  # compare: two counters and a truth value
    )  # fmt: skip
    after = (
        256 + 128  # the branch's product: [8, 16] read, [8, 8] written
        + 128  # the copy to the chip
        + 128  # the permuted, written
        + 128 + 256  # the gathered
        + 256 + 512  # the kernel
    )  # fmt: skip
    assert found.hbm_bytes == 6 * turn + after


@pytest.mark.parametrize(
    ("op_name", "scope"),
    [
        ("jit(f)/fusekit-node=image/dot_general", "image"),
        ("jit(step)/transpose(jvp(fusekit-node=image))/mul", "image"),
        ("jit(step)/jvp()/while/body/checkpoint/fusekit-node=text.long/add", "text.long"),
        ("jit(f)/fusekit-node=outer/fusekit-node=inner/add", "inner"),
        ("jit(f)/fusekit-node=a/mul;jit(f)/fusekit-node=b/add", "b"),
        ("jit(step)/sub", ""),
        ("", ""),
    ],
)
def test_the_innermost_node_of_an_op_name(op_name: str, scope: str) -> None:
    assert scope_in(op_name) == scope


def _scopes(op_name: str, inner: str, reader: str = "", read: str = "") -> dict[str, int]:
    def named(name: str) -> str:
        return f', metadata={{op_name="{name}"}}' if name else ""

    fused = computation(
        "fused",
        "%p = f32[8,8]{1,0} parameter(0)",
        "%d = f32[8,8]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
        + named(inner),
        '%n = f32[8,8]{1,0} negate(%d), metadata={op_name="jit(f)/fusekit-node=last/neg"}'
        if inner
        else "%n = f32[8,8]{1,0} negate(%d)",
    )
    config = ', backend_config={"window_config":{"estimated_cycles":"10"}}'
    return costs(
        text(
            '%x = f32[8,8]{1,0} parameter(0), metadata={op_name="fusekit-node=no"}',
            "%a = f32[8,8]{1,0} negate(%x)" + named(read),
            f"%f = f32[8,8]{{1,0}} fusion(%a), kind=kOutput, calls=%fused{named(op_name)}{config}",
            "%t = (f32[8,8]{1,0}) tuple(%f)",
            "%u = f32[8,8]{1,0} get-tuple-element(%t), index=0",
            "%b = f32[8,8]{1,0} negate(%u)" + named(reader),
            before=fused,
        ),
        {"data": 1},
    ).cycles_by_scope


def test_where_a_fusion_belongs() -> None:
    a, b = "jit(f)/fusekit-node=a/dot", "jit(f)/fusekit-node=b/dot"
    assert _scopes(a, b) == {"a": 10}
    assert _scopes("", b) == {"b": 10}  # its product's, not the last operation's
    assert _scopes("jit(f)/sub", "", reader=a) == {"": 10}  # says that it is none's
    assert _scopes("", "", reader=a, read=b) == {"a": 10}
    assert _scopes("", "", read=b) == {"b": 10}
    assert _scopes("", "") == {"": 10}


def test_a_loop_that_does_not_tell_its_turns_is_named() -> None:
    body = computation("body", "%p = f32[8]{0} parameter(0)", "%n = f32[8]{0} negate(%p)")
    condition = computation(
        "condition", "%p = f32[8]{0} parameter(0)", "%c = pred[] constant(true)"
    )
    found = costs(
        text(
            "%x = f32[8]{0} parameter(0)",
            "%w = f32[8]{0} while(%x), condition=%condition, body=%body",
            before=body + condition,
        ),
        {},
    )
    assert found.unknown_loops == {"w": 1}
    assert found.hbm_bytes == 2 * 32

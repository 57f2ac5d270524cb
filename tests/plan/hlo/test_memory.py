"""Bytes to and from main memory against hand counts."""

import pytest

from fusekit.plan.hlo import costs
from tests.support.hlo import SUM, computation, text

X = "%x = f32[6,100]{1,0} parameter(0)"  # 2400 bytes
I = "%i = s32[] parameter(1)"  # noqa: E741
ROW = 400
SCALAR = 4


def moved(*lines: str, before: str = "") -> int:
    return costs(text(*lines, before=before), {"data": 1}).hbm_bytes


def test_an_instruction_reads_its_operands_and_writes_its_result() -> None:
    assert moved(X, "%n = f32[6,100]{1,0} negate(%x)") == 2 * 2400
    assert moved(X, "%n = f32[6,100]{1,0} add(%x, %x)") == 2 * 2400  # the same operand is read once
    assert moved(X, "%n = bf16[6,100]{1,0} convert(%x)") == 2400 + 1200


def test_tiles_move_whole() -> None:
    tiled = "f32[6,100]{1,0:T(8,128)}"
    assert moved(f"%x = {tiled} parameter(0)", f"%n = {tiled} negate(%x)") == 2 * (8 * 128 * 4)
    fused = computation("fused", "%p = f32[6,100]{1,0} parameter(0)", "%n = f32[] negate(%p)")
    call = "%f = f32[] fusion(%x), kind=kLoop, calls=%fused"
    assert moved(f"%x = {tiled} parameter(0)", call, before=fused) == 8 * 128 * 4 + SCALAR


def test_on_chip_memory_is_free() -> None:
    assert moved(X, "%n = f32[6,100]{1,0:T(8,128)S(1)} negate(%x)") == 2400
    assert (
        moved(
            X,
            "%n = f32[6,100]{1,0:T(8,128)S(1)} negate(%x)",
            "%m = f32[6,100]{1,0:T(8,128)S(1)} negate(%n)",
        )
        == 2400
    )


@pytest.mark.parametrize(
    "free",
    [
        "%n = f32[600]{0} bitcast(%x)",
        "%n = (f32[6,100]{1,0}, f32[6,100]{1,0}) tuple(%x, %x)",
        '%n = f32[6,100]{1,0} custom-call(), custom_call_target="AllocateBuffer"',
        "%n = f32[6,100]{1,0} copy-done(%x)",
    ],
)
def test_what_only_names_a_value_is_free(free: str) -> None:
    assert moved(X, free) == 0


def test_a_copy_between_memories_counts_where_it_meets_the_main_one() -> None:
    copy = "%c = ({to}, {of}, u32[]{{:S(2)}}) copy-start(%x)"
    chip, main = "f32[6,100]{1,0:S(1)}", "f32[6,100]{1,0}"
    assert moved(X, copy.format(to=chip, of=main)) == 2400
    assert moved(X, copy.format(to=main, of=main)) == 4800
    assert (
        moved(
            "%x = f32[6,100]{1,0} parameter(0)",
            "%s = ((f32[6,100]{1,0}), f32[2,100]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), "
            "slice={[0:2], [0:100]}",
        )
        == 2 * ROW
    )


def test_slices_and_updates_count_the_slice() -> None:
    sliced = "%s = f32[1,100]{1,0} dynamic-slice(%x, %i, %i), dynamic_slice_sizes={1,100}"
    assert moved(X, I, sliced) == 2 * ROW + 2 * SCALAR
    assert moved(X, "%s = f32[1,100]{1,0} slice(%x), slice={[0:1], [0:100]}") == 2 * ROW
    # rows 3 of 6, by three indices
    gathered = "%g = f32[3,100]{1,0} gather(%x, %at), offset_dims={1}"
    assert moved(X, "%at = s32[3]{0} parameter(1)", gathered) == 2 * 3 * ROW + 3 * SCALAR
    updated = "%u = f32[6,100]{1,0} dynamic-update-slice(%x, %row, %i, %i)"
    assert moved(X, I, "%row = f32[1,100]{1,0} parameter(2)", updated) == 2 * ROW


def test_a_scatter_counts_its_updates() -> None:
    at, rows = "%at = s32[3]{0} parameter(1)", "%rows = f32[3,100]{1,0} parameter(2)"
    scattered = "%s = f32[6,100]{1,0} scatter(%x, %at, %rows), to_apply=%sum"
    # three indices and rows are read; three rows are read to be added to, and written
    assert moved(X, at, rows, scattered, before=SUM) == 3 * SCALAR + 3 * (3 * ROW)


def test_what_is_sent_is_read_and_what_is_received_is_written() -> None:
    token = "%t = token[] after-all()"
    array = "f32[6,100]{1,0}"
    send = f"%s = ({array}, u32[], token[]) send(%x, %t), channel_id=1"
    receive = f"%r = ({array}, u32[], token[]) recv(%t), channel_id=2"
    assert moved(X, token, send) == 2400
    assert moved(token, receive) == 2400
    assert moved(token, receive, f"%d = ({array}, token[]) recv-done(%r), channel_id=2") == 2400


def test_a_fusion_reads_no_more_than_there_is() -> None:
    fused = computation(
        "fused",
        "%p = f32[6,100]{1,0} parameter(0)",
        "%a = f32[5,100]{1,0} slice(%p), slice={[0:5], [0:100]}",
        "%b = f32[5,100]{1,0} slice(%p), slice={[1:6], [0:100]}",
        "%c = f32[5,100]{1,0} add(%a, %b)",
    )
    call = "%f = f32[5,100]{1,0} fusion(%x), kind=kLoop, calls=%fused"
    assert moved(X, call, before=fused) == 2400 + 5 * ROW


def test_a_fusion_reads_of_an_operand_what_it_slices() -> None:
    fused = computation(
        "fused",
        "%p = f32[6,100]{1,0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%q = bf16[6,100]{1,0} convert(%p)",
        "%s = bf16[1,100]{1,0} dynamic-slice(%q, %i, %i), dynamic_slice_sizes={1,100}",
        "%r = bf16[100]{0} bitcast(%s)",
    )
    call = "%f = bf16[100]{0} fusion(%x, %i), kind=kLoop, calls=%fused"
    # the row is read in float32, the index once, the result written in bfloat16
    assert moved(X, I, call, before=fused) == ROW + SCALAR + ROW // 2
    also_whole = fused.replace(
        "  ROOT %r = bf16[100]{0} bitcast(%s)",
        "  %n = f32[] reduce(%p, %p), dimensions={0,1}\n  ROOT %r = bf16[100]{0} bitcast(%s)",
    )
    assert moved(X, I, call, before=also_whole) == 2400 + SCALAR + ROW // 2


def test_a_fusion_within_a_fusion_reads_for_it() -> None:
    inner = computation(
        "inner",
        "%a = f32[6,100]{1,0} parameter(0)",
        "%s = f32[2,100]{1,0} slice(%a), slice={[0:2], [0:100]}",
    )
    outer = computation(
        "outer",
        "%b = f32[6,100]{1,0} parameter(0)",
        "%f = f32[2,100]{1,0} fusion(%b), kind=kLoop, calls=%inner",
        "%n = f32[2,100]{1,0} negate(%f)",
    )
    call = "%f = f32[2,100]{1,0} fusion(%x), kind=kLoop, calls=%outer"
    assert moved(X, call, before=inner + outer) == 4 * ROW


def test_a_fused_update_in_place_writes_the_update() -> None:
    fused = computation(
        "fused",
        "%p = f32[6,100]{1,0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%row = bf16[100]{0} parameter(2)",
        "%wide = f32[100]{0} convert(%row)",
        "%flat = f32[1,100]{1,0} bitcast(%wide)",
        "%u = f32[6,100]{1,0} dynamic-update-slice(%p, %flat, %i, %i)",
    )
    row = "%row = bf16[100]{0} parameter(2)"
    call = "%f = f32[6,100]{1,0} fusion(%x, %i, %row), kind=kLoop, calls=%fused"
    assert moved(X, I, row, call, before=fused) == ROW // 2 + SCALAR + ROW
    renamed = fused.replace(
        "ROOT %u = f32[6,100]{1,0} dynamic-update-slice(%p, %flat, %i, %i)",
        "%u = f32[6,100]{1,0} dynamic-update-slice(%p, %flat, %i, %i)\n"
        "  ROOT %v = f32[6,100]{1,0} bitcast(%u)",
    )
    assert moved(X, I, row, call, before=renamed) == ROW // 2 + SCALAR + ROW


def test_a_collective_in_pieces_moves_its_bytes_once() -> None:
    gather = (
        "all-gather(%p), channel_id=1, replica_groups={{0,1}}, dimensions={0}, "
        'backend_config={"async_collective_fusion_config":{"flag_start":"2"}}'
    )
    start = computation(
        "start",
        "%p = f32[6,100]{1,0} parameter(0)",
        f"%g = f32[12,100]{{1,0}} {gather}",
        "%c = (f32[6,100]{1,0}, f32[12,100]{1,0}, u32[]{:S(2)}) custom-call(%g), "
        'custom_call_target="AsyncCollectiveStart"',
    )
    middle = computation(
        "middle",
        "%p = f32[6,100]{1,0} parameter(0)",
        "%to = f32[12,100]{1,0} parameter(1)",
        "%own = f32[8]{0} parameter(2)",
        f"%g = f32[12,100]{{1,0}} {gather}",
        "%work = f32[8]{0} negate(%own)",
        "%all = (f32[8]{0}, f32[6,100]{1,0}, f32[12,100]{1,0}, f32[12,100]{1,0}) "
        "tuple(%work, %p, %to, %g)",
    )
    end = computation(
        "end",
        "%p = f32[6,100]{1,0} parameter(0)",
        "%to = f32[12,100]{1,0} parameter(1)",
        f"%g = f32[12,100]{{1,0}} {gather}",
        '%c = f32[12,100]{1,0} custom-call(%p, %to, %g), custom_call_target="AsyncCollectiveDone"',
    )
    found = costs(
        text(
            X,
            "%own = f32[8]{0} parameter(1)",
            "%s = (f32[6,100]{1,0}, f32[12,100]{1,0}, u32[]{:S(2)}) fusion(%x), kind=kCustom, "
            "calls=%start",
            "%p = f32[6,100]{1,0} get-tuple-element(%s), index=0",
            "%to = f32[12,100]{1,0} get-tuple-element(%s), index=1",
            "%m = (f32[8]{0}, f32[6,100]{1,0}, f32[12,100]{1,0}, f32[12,100]{1,0}) "
            "fusion(%p, %to, %own), kind=kOutput, calls=%middle",
            "%e = f32[12,100]{1,0} fusion(%p, %to), kind=kCustom, calls=%end",
            before=start + middle + end,
            devices=2,
        ),
        {"data": 2},
    )
    # the gather reads 2400 and writes 4800; the work beside it reads and writes 8 floats
    assert found.hbm_bytes == 2400 + 4800 + 2 * 32
    assert [(one.opcode, one.bytes, one.times) for one in found.collectives] == [
        ("all-gather", 2400, 1)
    ]

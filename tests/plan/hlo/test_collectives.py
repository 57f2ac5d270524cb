"""What collectives move and along which axes, against hand counts."""

import pytest

from fusekit.errors import HloError
from fusekit.plan.hlo import Collective, costs
from tests.support.hlo import SUM, computation, text

MESH = {"data": 2, "tensor": 4}
X = "%x = bf16[8,64]{1,0} parameter(0)"  # 1024 bytes
ALONG = {
    ("tensor",): "{{0,1,2,3},{4,5,6,7}}",
    ("data",): "[4,2]<=[2,4]T(1,0)",
    ("data", "tensor"): "{}",
}


def found(*lines: str, before: str = "", devices: int = 8) -> Collective:
    (only,) = costs(text(*lines, before=SUM + before, devices=devices), MESH).collectives
    return only


@pytest.mark.parametrize(
    ("opcode", "shape", "axes", "moved"),
    [
        # b bytes given to groups of g: all-gather b (g - 1), reduce-scatter and all-to-all
        # b (g - 1) / g, all-reduce both
        ("all-gather", "[32,64]", ("tensor",), 1024 * 3),
        ("all-gather", "[16,64]", ("data",), 1024),
        ("reduce-scatter", "[2,64]", ("tensor",), 768),
        ("reduce-scatter", "[1,64]", ("data", "tensor"), 896),
        ("all-reduce", "[8,64]", ("tensor",), 1536),
        ("all-reduce", "[8,64]", ("data",), 1024),
        ("all-to-all", "[8,64]", ("tensor",), 768),
        ("all-gather-start", "[32,64]", ("tensor",), 1024 * 3),
        ("all-reduce-start", "[8,64]", ("data",), 1024),
        ("reduce-scatter-start", "[2,64]", ("tensor",), 768),
    ],
)
def test_rings(opcode: str, shape: str, axes: tuple[str, ...], moved: int) -> None:
    one = found(
        X,
        f"%c = bf16{shape}{{1,0}} {opcode}(%x), channel_id=1, replica_groups={ALONG[axes]}, "
        'dimensions={0}, to_apply=%sum, metadata={op_name="jit(f)/jvp(fusekit-node=a)/g"}',
    )
    size = {("tensor",): 4, ("data",): 2, ("data", "tensor"): 8}[axes]
    name = opcode.removesuffix("-start")
    assert one == Collective(name, moved, size, axes, dcn=False, times=1, scope="a")


def test_several_operands_move_together() -> None:
    """CPU's all-to-all has an operand for each receiver; a combined all-reduce has many."""
    halves = "(bf16[4,64]{1,0}, bf16[4,64]{1,0})"
    given = "%x = bf16[4,64]{1,0} parameter(0)", "%y = bf16[4,64]{1,0} parameter(1)"
    groups = ALONG[("data",)]
    swapped = found(*given, f"%c = {halves} all-to-all(%x, %y), replica_groups={groups}")
    assert swapped.bytes == 512
    summed = found(
        *given, f"%c = {halves} all-reduce(%x, %y), replica_groups={groups}, to_apply=%sum"
    )
    assert summed.bytes == 1024


def test_of_a_ragged_exchange_only_the_rows_move() -> None:
    """Its other operands are where to write and how much."""
    given = X, "%to = bf16[8,64]{1,0} parameter(1)", "%n = s32[4]{0} parameter(2)"
    one = found(
        *given,
        "%c = bf16[8,64]{1,0} ragged-all-to-all(%x, %to, %n, %n, %n, %n), "
        "replica_groups={{0,1,2,3},{4,5,6,7}}",
    )
    assert (one.opcode, one.bytes) == ("ragged-all-to-all", 768)


def test_a_permute_sends_its_operand_to_the_next() -> None:
    ring = "{{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    permute = "%c = bf16[8,64]{1,0} collective-permute(%x), channel_id=1, source_target_pairs="
    one = found(X, permute + ring)
    assert (one.opcode, one.bytes, one.size, one.axes) == (
        "collective-permute",
        1024,
        4,
        ("tensor",),
    )
    assert found(X, permute + "{{0,4},{4,0},{1,1}}").axes == ("data",)
    still = found(X, permute + "{{0,0},{1,1}}")
    assert (still.bytes, still.axes) == (0, ())


def test_a_part_of_an_axis_is_that_axis() -> None:
    one = found(
        X,
        "%c = bf16[16,64]{1,0} all-gather(%x), dimensions={0}, "
        "replica_groups={{0,1},{2,3},{4,5},{6,7}}",
    )
    assert (one.size, one.axes) == (2, ("tensor",))


def test_an_all_reduce_of_which_each_keeps_a_part_scatters() -> None:
    """TPU's form: a fusion of an all-reduce and a slice."""
    fused = computation(
        "all-reduce-scatter",
        "%p = bf16[8,64]{1,0} parameter(0)",
        "%r = bf16[8,64]{1,0} all-reduce(%p), channel_id=1, "
        "replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum",
        "%zero = u32[] constant(0)",
        "%part = bf16[2,64]{1,0} dynamic-slice(%r, %zero, %zero), dynamic_slice_sizes={2,64}",
    )
    call = (
        "%f = bf16[2,64]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter, "
        'metadata={op_name="jit(f)/transpose(jvp(fusekit-node=b))/dot"}'
    )
    one = found(X, call, before=fused)
    assert one == Collective("reduce-scatter", 768, 4, ("tensor",), False, 1, "b")
    kept = fused.replace("ROOT %part =", "%part =").replace(
        "sizes={2,64}\n", "sizes={2,64}\n  ROOT %both = () tuple(%part, %r)\n"
    )
    assert found(X, call, before=kept).opcode == "all-reduce"


def test_two_collectives_of_one_channel_are_two() -> None:
    """As `shard_map` numbers them."""
    reduce = "all-reduce({}), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%sum"
    both = costs(
        text(
            X,
            f"%a = bf16[8,64]{{1,0}} {reduce.format('%x')}",
            f"%b = bf16[8,64]{{1,0}} {reduce.format('%a')}",
            before=SUM,
            devices=8,
        ),
        MESH,
    )
    assert both.ici_bytes_by_axes == {("tensor",): 2 * 1536}
    assert both.dcn_bytes_by_axes == {}


@pytest.mark.parametrize(
    ("mesh", "slices", "slice_axis", "groups", "axes", "dcn"),
    [
        # the slices hold positions 0-3 and 4-7
        ({"data": 2, "tensor": 4}, 2, "data", "{{0,4},{1,5},{2,6},{3,7}}", ("data",), True),
        ({"data": 2, "tensor": 4}, 2, "data", "{{0,1,2,3},{4,5,6,7}}", ("tensor",), False),
        ({"data": 2, "tensor": 4}, 2, None, "{{0,4},{1,5},{2,6},{3,7}}", ("data",), True),
        # data = 4 is two blocks of two: 0 2 | 4 6
        ({"data": 4, "tensor": 2}, 2, "data", "{{0,2},{1,3},{4,6},{5,7}}", ("data",), False),
        ({"data": 4, "tensor": 2}, 2, "data", "{{0,2,4,6},{1,3,5,7}}", ("data",), True),
        # slices along the inner axis: 0 2 4 6 and 1 3 5 7
        ({"tensor": 4, "data": 2}, 2, "data", "{{0,1},{2,3},{4,5},{6,7}}", ("data",), True),
        ({"tensor": 4, "data": 2}, 2, "data", "{{0,2,4,6},{1,3,5,7}}", ("tensor",), False),
    ],
)
def test_whether_groups_cross_slices(
    mesh: dict[str, int],
    slices: int,
    slice_axis: str | None,
    groups: str,
    axes: tuple[str, ...],
    dcn: bool,
) -> None:
    written = text(
        X,
        f"%c = bf16[8,64]{{1,0}} all-reduce(%x), replica_groups={groups}, to_apply=%sum",
        before=SUM,
        devices=8,
    )
    (one,) = costs(written, mesh, slices, slice_axis).collectives
    assert (one.axes, one.dcn) == (axes, dcn)


SEND = (
    "%send = (bf16[8,64]{{1,0}}, u32[], token[]) send(%x, %t), channel_id=2, "
    "is_host_transfer=true, frontend_attributes={{_xla_megascale_target={},"
    '_xla_megascale_transfer_type="{}"}}, backend_config={{}}'
)
SWAP = "{{100000->200000},{200000->100000}}"
PAIRS = "{{100000,300000},{100001,300001},{200000,400000},{200001,400001}}"


@pytest.mark.parametrize(
    ("kind", "targets", "opcode", "moved", "size", "axes"),
    [
        # 16 devices in 4 slices; each sends 1024 bytes
        ("ALL_REDUCE", '"{1,2,3,4}x{0:3}"', "all-reduce", 1536, 4, ("a", "b")),
        ("ALL_GATHER", '"{1,2}x{0:3}"', "all-gather", 1024, 2, ("b",)),
        ("REDUCE_SCATTER", PAIRS, "reduce-scatter", 512, 2, ("a",)),
        ("ALL_TO_ALL", PAIRS, "all-to-all", 512, 2, ("a",)),
        (
            "ONE_TO_ONE",
            "{{100000->200000},{200000->100000}}",
            "collective-permute",
            1024,
            2,
            ("b",),
        ),
    ],
)
def test_what_a_tpu_slice_sends_to_others(
    kind: str, targets: str, opcode: str, moved: int, size: int, axes: tuple[str, ...]
) -> None:
    """The text is for the four devices of one slice; slices are numbered from 1."""
    written = text(X, "%t = token[] after-all()", SEND.format(targets, kind), devices=4)
    found = costs(written, {"a": 2, "b": 2, "tensor": 4}, slices=4)
    assert found.collectives == (Collective(opcode, moved, size, axes, True, 1, ""),)
    assert found.dcn_bytes_by_axes == {axes: moved}
    assert found.ici_bytes_by_axes == {}


def test_groups_within_one_of_several_slices() -> None:
    """Devices count within the slice: 0 2 4 6 of a mesh whose inner axis the slices share."""
    written = text(
        X,
        "%c = bf16[8,64]{1,0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%sum",
        before=SUM,
        devices=4,
    )
    (one,) = costs(written, {"tensor": 4, "data": 2}, 2, "data").collectives
    assert (one.axes, one.dcn, one.size) == (("tensor",), False, 4)


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        ("ALL_REDUCE", '"{1,5}x{0:3}"', "no slice 4"),
        ("ALL_REDUCE", '"everyone"', "to which slices"),
        ("GOSSIP", PAIRS, "way that is not known"),
    ],
)
def test_what_is_sent_in_an_unknown_way(kind: str, targets: str, message: str) -> None:
    written = text(X, "%t = token[] after-all()", SEND.format(targets, kind), devices=4)
    with pytest.raises(HloError, match=message):
        costs(written, {"a": 2, "b": 2, "tensor": 4}, slices=4)


def test_a_mesh_that_does_not_fit_the_text() -> None:
    written = text(X, devices=8)
    for mesh, slices, axis in [
        ({"data": 4}, 1, None),
        ({"data": 16}, 1, None),
        ({"data": 24}, 2, None),
        ({"data": 8}, 3, None),
        ({"data": 2, "tensor": 4}, 4, "data"),
        ({"data": 8}, 2, "slice"),
    ]:
        with pytest.raises(HloError):
            costs(written, mesh, slices, axis)
    outside = "%c = bf16[8,64]{1,0} all-to-all(%x), replica_groups={{0,8}}"
    with pytest.raises(HloError, match="no device 8"):
        costs(text(X, outside, devices=8), {"data": 8})

"""What is read from HLO text, and that nothing but an `HloError` comes of what is none."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusekit.errors import FusekitError, HloError
from fusekit.plan.hlo import costs, parse
from fusekit.plan.hlo.groups import groups_of
from fusekit.plan.hlo.shapes import Shape, shapes_of
from tests.support.hlo import SUM, computation, text
from tests.support.times import within

TPU = text(
    "%a = bf16[512,256]{1,0:T(8,128)(2,1)S(1)} parameter(0), sharding={devices=[2,2]<=[4]}, "
    'metadata={op_name="x"}',
    "%b = (s32[]{:T(128)}, (f32[2]{0}, s4[3,<=5]{1,0:T(8,128)E(4)}), /*index=2*/pred[7]{0}) "
    'custom-call(%a, /*index=1*/%a), custom_call_target="f", backend_config={"x":{"y":"3"}}',
    "%all-reduce.1 = bf16[512,256]{1,0:T(8,128)(2,1)} all-reduce(%a), channel_id=7, "
    "replica_groups={{0,1},{2,3}}, use_global_device_ids=true, to_apply=%sum, "
    'frontend_attributes={a="1",to_apply="%no",b={{1,2},{3,4}}}, '
    'metadata={op_type="m" op_name="jit(f)/a\\"}, body=%no" stack_frame_id=3}, '
    'backend_config={"window_config":{"estimated_cycles":"15166"}}',
    before=SUM,
    devices=4,
)


def test_instructions_are_read_into_fields() -> None:
    module = parse(TPU)
    assert (module.name, module.devices, module.entry) == ("jit_f", 4, "main")
    assert list(module.computations) == ["sum", "main"]
    a, b, reduced = module.computations["main"].instructions.values()
    assert a.shapes == (Shape("bf16", (512, 256), space=1, bits=16, padded=512 * 256),)
    assert (a.opcode, a.argument, a.op_name) == ("parameter", "0", "x")
    assert a.bytes == 512 * 256 * 2
    assert [(s.dtype, s.dims, s.bytes) for s in b.shapes] == [
        ("s32", (), 4),
        ("f32", (2,), 8),
        ("s4", (3, 5), 8),  # 15 half bytes
        ("pred", (7,), 7),
    ]
    assert b.operands == ("a", "a")
    assert b.config() == {"x": {"y": "3"}}
    assert b.attribute("custom_call_target") == '"f"'
    assert reduced.channel_id == 7
    assert reduced.replica_groups == ((0, 1), (2, 3))
    assert reduced.called == (("to_apply", "sum"),)
    assert reduced.op_name == 'jit(f)/a\\"}, body=%no'
    assert reduced.frontend("a") == "1"
    assert reduced.frontend("b") == "{{1,2},{3,4}}"
    assert reduced.config() == {"window_config": {"estimated_cycles": "15166"}}
    assert module.computations["main"].root is reduced


def test_attributes_of_loops_branches_and_permutes() -> None:
    body, condition, one, two = (
        computation(name, "%p = f32[] parameter(0)") for name in ("body", "condition", "one", "two")
    )
    module = parse(
        text(
            "%p = f32[] parameter(0)",
            "%w = f32[] while(%p), condition=%condition, body=%body, "
            'backend_config={"known_trip_count":{"n":"5"}}',
            "%c = f32[] conditional(%p, %p, %p), branch_computations={%one, %two}",
            "%m = f32[] collective-permute(%c), channel_id=1, source_target_pairs={{0,1},{1,0}}",
            "%g = f32[8]{0} all-gather(%m), replica_groups=[1,8]<=[8], dimensions={0}",
            before=body + condition + one + two,
        )
    )
    loop, choice, moved, gathered = list(module.computations["main"].instructions.values())[1:]
    assert loop.calls("condition") == ("condition",)
    assert loop.calls("body") == ("body",)
    assert loop.config() == {"known_trip_count": {"n": "5"}}
    assert choice.calls("branch_computations") == ("one", "two")
    assert moved.source_target_pairs == ((0, 1), (1, 0))
    assert gathered.dimensions == (0,)
    assert gathered.replica_groups == (tuple(range(8)),)


def test_a_constant_may_take_several_lines() -> None:
    constant = "%c = s32[2,2]{1,0} constant({\n  { 1, 2 },\n  { 3, 4 }\n}), metadata={}"
    found = parse(text(constant, "%d = s32[] constant(-3)")).computations["main"].instructions
    assert found["c"].argument == "{ { 1, 2 }, { 3, 4 } }"
    assert found["d"].argument == "-3"


@pytest.mark.parametrize(
    ("printed", "groups"),
    [
        ("{{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("{}", ()),
        ("[4,2]<=[8]", ((0, 1), (2, 3), (4, 5), (6, 7))),
        # 0..7 as (2, 4), transposed: 0 4 1 5 2 6 3 7
        ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("[2,4]<=[2,2,2]T(1,0,2)", ((0, 1, 4, 5), (2, 3, 6, 7))),
        ("mesh['a'=2,'b'=4] {'b'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['a'=2,'b'=4] {'a'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ((0, 1, 4, 5), (2, 3, 6, 7))),
        # b = 2 x 2: its outer half of size 2 has 1 before it, its inner 2
        ("mesh['a'=2,'b'=4] {'b':(1)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        # devices 0..7 as (4, 2), transposed: the mesh's rows are 0 2 4 6 and 1 3 5 7
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}", ((0, 2, 4, 6), (1, 3, 5, 7))),
        ("mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}", ((0, 2), (1, 3))),
    ],
)
def test_every_form_of_replica_groups(printed: str, groups: tuple[tuple[int, ...], ...]) -> None:
    assert groups_of(printed) == groups
    found = parse(
        text(
            "%p = f32[8]{0} parameter(0)",
            f"%r = f32[8]{{0}} all-gather(%p), channel_id=1, replica_groups={printed}, "
            "dimensions={0}, use_global_device_ids=true",
        )
    )
    assert found.computations["main"].root.replica_groups == groups


@pytest.mark.parametrize(
    "printed",
    [
        "[4,2]<=[9]",
        "[8]<=[8]",
        "[4,2]<=[2,4]T(1,1)",
        "mesh['a'=4] {'a':(3)2}",
        "mesh['a'=8] {'a':(1)4,'a':(2)2}",
        "mesh['a'=4]",
        "x",
    ],
)
def test_groups_that_do_not_work_out(printed: str) -> None:
    with pytest.raises(HloError):
        groups_of(printed)


@pytest.mark.parametrize(
    ("printed", "stored"),
    [
        ("f32[3,130]{1,0:T(8,128)}", 8 * 256 * 4),
        ("f32[3,130]{0,1:T(8,128)}", 136 * 128 * 4),
        ("bf16[5,3,130]{2,1,0:T(8,128)(2,1)S(1)}", 5 * 8 * 256 * 2),
        ("bf16[2,2,130]{2,0,1:T(2,128)(2,1)}", 2 * 2 * 256 * 2),
        ("f32[5]{0:T(128)}", 128 * 4),
        ("f32[]{:T(128)}", 128 * 4),
        ("f32[3,130]{1,0}", 3 * 130 * 4),
        ("u32[]{:S(2)}", 4),
    ],
)
def test_tiles_are_stored_whole(printed: str, stored: int) -> None:
    assert shapes_of(printed)[0].stored == stored


@pytest.mark.parametrize("dtype", ["f8e4m3fn", "u8", "s8", "pred"])
def test_one_byte(dtype: str) -> None:
    assert shapes_of(f"{dtype}[3]{{0}}")[0].bytes == 3


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("", "no HLO"),
        ("HloModule m", "no entry"),
        (TPU[: TPU.index("all-reduce(")], "ends within computation main"),
        (TPU.replace("to_apply=%sum,", "to_apply=%other,"), "calls other"),
        (TPU.replace("all-reduce(%a)", "all-reduce(%z)"), "reads z"),
        (TPU.replace("f32[2]", "q32[2]"), "no element type"),
        (TPU.replace("  ROOT ", "  "), "has no root"),
        (TPU.replace("num_partitions=4", "num_partitions=" + "4" * 30), "no number"),
    ],
)
def test_what_is_wrong_is_said(damaged: str, message: str) -> None:
    with pytest.raises(HloError, match=message):
        parse(damaged)


def test_a_computation_that_calls_itself_is_none() -> None:
    loop = computation("f", "%p = f32[] parameter(0)", "%c = f32[] call(%p), to_apply=%f")
    with pytest.raises(HloError, match="not before it"):
        parse(text("%p = f32[] parameter(0)", before=loop))


def _costs(damaged: str) -> None:
    """Reads a damaged text; anything but an `HloError` is a failure."""
    try:
        costs(damaged, {"data": 4})
    except FusekitError:
        return


def test_a_text_cut_off_anywhere_raises_nothing_else(rich: str) -> None:
    for end in range(0, len(rich), 7):
        _costs(rich[:end])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 8))
def test_a_garbled_text_raises_nothing_else(rich: str, seed: int, count: int) -> None:
    chance = random.Random(seed)
    letters = list(rich)
    for _ in range(count):
        at = chance.randrange(len(letters))
        letters[at] = chance.choice('%(){}[],=0123456789-"axSTE\n ')
    _costs("".join(letters))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_words_put_elsewhere_raise_nothing_else(rich: str, seed: int) -> None:
    chance = random.Random(seed)
    words = rich.split(" ")
    for _ in range(3):
        one, other = chance.randrange(len(words)), chance.randrange(len(words))
        words[one], words[other] = words[other], words[one]
    _costs(" ".join(words))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_any_text_raises_nothing_else(anything: str) -> None:
    _costs(anything)
    _costs("HloModule m\nENTRY %main (p: f32[]) -> f32[] {\n" + anything + "\n}")


def test_a_long_text_is_read_in_seconds(rich: str) -> None:
    """30 MB in 20 s asked for; 3 MB here, of lines as long as TPU's."""
    start = rich.index("\n%")
    end = rich.index("\nENTRY")
    body, entry = rich[start:end], rich[end:]
    copies = 3_000_000 // len(body)
    many = (
        rich[:start] + "".join(body.replace("%", f"%c{n}.") for n in range(copies)) + body + entry
    )
    with within(6):
        module = parse(many)
    assert len(module.computations) > 1000

"""How often instructions run: loops, branches, calls."""

import pytest

from fusekit.plan.hlo.module import Computation, Instruction
from fusekit.plan.hlo.parse import parse
from fusekit.plan.hlo.walk import Walk, walk
from tests.support.hlo import computation, text


def price(computation: Computation, instruction: Instruction) -> tuple[int, ...]:
    return (instruction.bytes if instruction.opcode == "negate" else 0,)


def walked(written: str) -> Walk:
    return walk(parse(written), price)


def times(written: str, name: str) -> int:
    return sum(v.times for v in walked(written).visits if v.instruction.name == name)


def loop(
    start: str = "0", step: str = "1", end: str = "5", direction: str = "LT", config: str = ""
) -> str:
    """`for (i = start; i direction end; i += step) f32[8] = negate(f32[8])`."""
    carried = "(s32[], f32[8]{0})"
    body = computation(
        "body",
        f"%p = {carried} parameter(0)",
        "%i = s32[] get-tuple-element(%p), index=0",
        "%held = s32[]{:S(6)} copy(%i)",
        f"%step = s32[] constant({step})",
        "%next = s32[] add(%held, %step)",
        "%x = f32[8]{0} get-tuple-element(%p), index=1",
        "%work = f32[8]{0} negate(%x)",
        f"%root = {carried} tuple(%next, %work)",
    )
    condition = computation(
        "condition",
        f"%q = {carried} parameter(0)",
        "%j = s32[] get-tuple-element(%q), index=0",
        f"%end = s32[] constant({end})",
        f"%c = pred[] compare(%j, %end), direction={direction}",
    )
    return text(
        "%x = f32[8]{0} parameter(0)",
        f"%zero = s32[] constant({start})",
        "%kept = s32[] copy(%zero)",
        f"%start = {carried} tuple(%kept, %x)",
        f"%w = {carried} while(%start), condition=%condition, body=%body{config}",
        before=body + condition,
    )


@pytest.mark.parametrize(
    ("start", "step", "end", "direction", "turns"),
    [
        ("0", "1", "5", "LT", 5),
        ("2", "1", "9", "LT", 7),
        ("0", "2", "5", "LT", 3),  # 0 2 4
        ("0", "2", "4", "LE", 3),  # 0 2 4
        ("9", "-3", "0", "GT", 3),  # 9 6 3
        ("9", "-3", "0", "GE", 4),  # 9 6 3 0
        ("0", "1", "6", "NE", 6),
        ("7", "1", "5", "LT", 0),
    ],
)
def test_turns_follow_from_start_step_and_end(
    start: str, step: str, end: str, direction: str, turns: int
) -> None:
    written = loop(start, step, end, direction)
    assert times(written, "work") == turns
    assert walked(written).unknown_loops == {}


def test_what_the_compiler_says_goes_first() -> None:
    written = loop(config=', backend_config={"known_trip_count":{"n":"11"}}')
    assert times(written, "work") == 11


def test_a_comparison_may_be_fused_and_turned_around() -> None:
    """As CPU prints it; and `5 > i` is `i < 5`."""
    fused = computation(
        "wrapped_compare",
        "%a = s32[] parameter(0)",
        "%b = s32[] parameter(1)",
        "%lt = pred[] compare(%a, %b), direction=GT",
    )
    compared = "%c = pred[] compare(%j, %end), direction=LT"
    assert compared in loop()
    written = loop().replace(
        compared, "%c = pred[] fusion(%end, %j), kind=kLoop, calls=%wrapped_compare"
    )
    assert times(written.replace("\n%body ", fused + "\n%body "), "work") == 5


def test_the_end_may_be_carried() -> None:
    """Where XLA moves constants out of loops, both sides of the comparison are carried."""
    written = loop().replace("(s32[], f32[8]{0})", "(s32[], f32[8]{0}, s32[])")
    written = (
        written.replace("%end = s32[] constant(5)", "%end = s32[] get-tuple-element(%q), index=2")
        .replace("tuple(%next, %work)", "tuple(%next, %work, %limit)")
        .replace("%work = ", "%limit = s32[] get-tuple-element(%p), index=2\n  %work = ")
        .replace("tuple(%kept, %x)", "tuple(%kept, %x, %four)")
        .replace("%kept = ", "%four = s32[] constant(4)\n  %kept = ")
    )
    assert times(written, "work") == 4
    changed = written.replace("tuple(%next, %work, %limit)", "tuple(%next, %work, %next)")
    assert walked(changed).unknown_loops == {"w": 1}


def test_a_loop_of_unknown_length_counts_once_and_is_told() -> None:
    written = loop().replace("%end = s32[] constant(5)", "%end = s32[] negate(%j)")
    assert times(written, "work") == 1
    assert walked(written).unknown_loops == {"w": 1}


def test_a_loop_with_an_unknown_start_counts_to_its_end_and_is_told() -> None:
    written = loop().replace("%zero = s32[] constant(0)", "%zero = s32[] parameter(1)")
    assert times(written, "work") == 5
    assert walked(written).unknown_loops == {"w": 5}


def test_loops_within_loops_multiply() -> None:
    inner = loop(end="3")
    start = inner.index("\n%body")
    bodies, entry = inner[start : inner.index("\nENTRY")], inner[inner.index("\nENTRY") :]
    outer = bodies.replace("%", "%outer_").replace(
        "%outer_work = f32[8]{0} negate(%outer_x)",
        "%zero = s32[] constant(0)\n"
        "  %start = (s32[], f32[8]{0}) tuple(%zero, %outer_x)\n"
        "  %w = (s32[], f32[8]{0}) while(%start), condition=%condition, body=%body\n"
        "  %outer_work = f32[8]{0} get-tuple-element(%w), index=1",
    )
    outer = outer.replace("constant(3)", "constant(4)")
    called = entry.replace("=%condition", "=%outer_condition").replace("=%body", "=%outer_body")
    assert times(inner[:start] + bodies + outer + called, "work") == 3 * 4


def test_of_a_conditional_the_dearest_branch_runs() -> None:
    cheap = computation(
        "cheap",
        "%p = f32[8]{0} parameter(0)",
        "%a = f32[8]{0} bitcast(%p)",
        "%b = f32[8]{0} bitcast(%a)",
        "%few = f32[8]{0} negate(%b)",
    )
    dear = computation(
        "dear",
        "%p = f32[8]{0} parameter(0)",
        "%many = f32[8]{0} negate(%p)",
        "%more = f32[8]{0} negate(%many)",
    )
    written = text(
        "%x = f32[8]{0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%c = f32[8]{0} conditional(%i, %x, %x, %x), branch_computations={%cheap, %dear, %cheap}",
        before=cheap + dear,
    )
    assert [times(written, name) for name in ("few", "many", "more")] == [0, 1, 1]
    old = written.replace(
        "branch_computations={%cheap, %dear, %cheap}",
        "true_computation=%cheap, false_computation=%dear",
    )
    assert [times(old, name) for name in ("few", "many", "more")] == [0, 1, 1]
    marked = (
        'branch_computations={%cheap, %dear, %cheap}, metadata={op_name="a/fusekit-seldom/cond"}'
    )
    seldom = written.replace("branch_computations={%cheap, %dear, %cheap}", marked)
    assert [times(seldom, name) for name in ("few", "many", "more")] == [1, 0, 0]


def test_calls_and_wrapped_asynchronous_computations_run_reducers_do_not() -> None:
    called = computation("called", "%p = f32[8]{0} parameter(0)", "%work = f32[8]{0} negate(%p)")
    written = text(
        "%x = f32[8]{0} parameter(0)",
        "%a = f32[8]{0} call(%x), to_apply=%called",
        "%b = ((f32[8]{0}), f32[8]{0}, u32[]) async-start(%a), calls=%called",
        "%c = f32[8]{0} async-done(%b)",
        "%d = f32[8]{0} reduce(%c, %c), dimensions={}, to_apply=%called",
        before=called,
    )
    assert times(written, "work") == 2

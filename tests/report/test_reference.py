"""The component reference says of each field what the registry says."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fusekit.component import Coupling, HeadSpec, StackSpec, Width
from fusekit.config.registry import walk
from fusekit.report.reference import first_line, markdown, section


class FakeSpec(HeadSpec):
    """One line.

    More about it | with a bar.
    """

    couples: ClassVar[Coupling] = "train"
    couples_because: ClassVar[str] = "of a reason"
    type: Literal["fake"] = "fake"
    width: Width = Field(description="of a | b")
    rate: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="a share")
    mode: Literal["plain", "odd"] = Field("plain", description="how")
    pair: tuple[int, int] | None = Field(None, description="two")
    flag: bool = Field(True, description="on")


def test_fields_bounds_and_defaults() -> None:
    lines = section("head", "fake", FakeSpec).splitlines()
    assert lines[0] == '### <a id="head-fake"></a>fake'
    assert lines[2] == "One line."
    assert "- couples the samples of a batch in training: of a reason" in lines
    assert "| `width` | integer ≥ 1, ≤ 1000000 | required | of a \\| b |" in lines
    assert "| `rate` | number ≥ 0, < 1 | `0.5` | a share |" in lines
    assert "| `mode` | `plain` or `odd` | `plain` | how |" in lines
    assert "| `pair` | [integer, integer] or null |  | two |" in lines
    assert "| `flag` | `true` or `false` | `true` | on |" in lines
    assert "| `input` | reference | required | what it reads |" in lines
    assert first_line(FakeSpec) == "One line"


def test_the_whole_reference_names_every_component() -> None:
    text = markdown()
    for slot, name, spec in walk():
        assert f'<a id="{slot}-{name}"></a>' in text
        assert f"(#{slot}-{name})" in text
        assert first_line(spec) in text
    stacks = [spec for _, _, spec in walk() if issubclass(spec, StackSpec)]
    assert text.count("- a stack with layers") == len(stacks)
    assert text == markdown()

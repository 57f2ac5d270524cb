"""The thirteen systems of docs/design/002: every block is a config as far as it can be read, and
every reference in it is one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fusekit.config.reference import parse_place, parse_reference
from fusekit.config.sections import LATER, OTHER, SECTIONS
from fusekit.config.source import parse
from fusekit.config.tree import plain

PAGE = Path(__file__).parents[2] / "docs" / "design" / "002-language-cases.md"
TITLED = re.compile(r"^## ([^\n]+)\n\n```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = dict(TITLED.findall(PAGE.read_text(encoding="utf-8")))

REFERENCES = ("input", "inputs", "prediction", "target", "where", "like", "pick", "soft")
NOT_YET = {"state@input.."}
"""Forms that decision 4 adds and the grammar does not have yet."""


def strings(value: Any) -> Iterator[str]:
    """All texts in a value; a target may be a number."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def declared(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every (field, text) of the entries that should be a reference or a place."""
    for section in SECTIONS:
        for entry in tree.get(section, {}).values():
            for name in (*REFERENCES, "into"):
                yield from ((name, text) for text in strings(entry.get(name)))
    for part in tree.get("parts", {}).values():
        for text in (*part.get("of", ()), *part.get("given", {}), *part.get("given", {}).values()):
            yield "of", text


def test_there_are_thirteen():
    assert len(BLOCKS) == 13


@pytest.mark.parametrize("title", BLOCKS)
def test_a_case_is_read(title: str):
    reading = parse(BLOCKS[title], title)
    assert reading.problems == []
    assert reading.root is not None
    tree: Any = plain(reading.root)
    assert tree["version"] == 1
    assert not tree.keys() - {*SECTIONS, *OTHER, *LATER, "extends"}
    for section in SECTIONS:
        assert all("type" in entry for entry in tree.get(section, {}).values())


@pytest.mark.parametrize("title", BLOCKS)
def test_its_references_follow_the_grammar(title: str):
    root = parse(BLOCKS[title], title).root
    assert root is not None
    tree: Any = plain(root)
    found = [(name, text) for name, text in declared(tree) if text not in NOT_YET]
    assert found
    for name, text in found:
        read = parse_place if name == "into" else parse_reference
        assert str(read(text)) == text


def test_the_forms_that_are_not_there_yet_are_refused():
    page = "\n".join(BLOCKS.values())
    for text in NOT_YET:
        assert text in page
        with pytest.raises(ValueError, match="a reference is"):
            parse_reference(text)

"""Many problems, many names and odd values: messages stay short, and are soon there."""

from typing import Any

import pytest

from fusekit.config import Experiment, load
from fusekit.config.loader import loads
from fusekit.errors import ConfigError, Problem, nearest
from tests.support.times import within

pytestmark = pytest.mark.usefixtures("fakes")


def test_a_message_shows_a_hundred_problems():
    error = ConfigError([Problem(("a", index), "is wrong") for index in range(250)])
    lines = str(error).splitlines()
    assert len(error.problems) == 250
    assert lines[99:] == ["a.99: is wrong", "... and 150 more", "250 problems found"]


@pytest.mark.parametrize("word", ["head_77", "haed_77", "head_7", "hed_77", "HEAD_77", "head_777"])
def test_of_many_names_those_one_character_away_are_near(word: str):
    names = [f"head_{index}" for index in range(3000)]
    assert any(name in ("head_77", "head_7") for name in nearest(word, names))
    assert nearest("something", names) == ()
    assert nearest("h" * 5000, [*names, "h" * 4999]) == ()


def test_three_thousand_heads_with_two_typos_each():
    heads = "".join(f"  h{i}: {{type: classifier, inptu: joint, clases: 3}}\n" for i in range(3000))
    with within(20):
        with pytest.raises(ConfigError) as caught:
            loads(f"version: 1\nheads:\n{heads}")
        assert len(caught.value.problems) == 12_000
        assert len(str(caught.value).splitlines()) < 500


@pytest.mark.parametrize("value", ["x" * 9, "[]", "null"])
def test_a_list_of_many_wrong_things(value: str):
    listed = ", ".join([value] * 10_000)
    with within(10), pytest.raises(ConfigError) as caught:
        loads(f"version: 1\nfusion: {{a: {{type: concat, inputs: [{listed}, 1]}}}}")
    assert caught.value.problems


def test_a_value_that_holds_itself():
    held: dict[str, Any] = {"type": "concat"}
    held["inputs"] = held
    listed: list[Any] = [1]
    listed.append(listed)
    for value in (held, listed, {"type": "concat", "inputs": listed}):
        with pytest.raises(ConfigError) as caught:
            Experiment(fusion={"a": value})
        assert str(caught.value) == (
            "fusion: nested deeper than 32\n"
            "    expected: mappings and lists in one another at most that often\n"
            "1 problem found"
        )


def test_a_value_that_stands_in_many_places():
    shared: Any = ["image", "text"]
    for _ in range(25):
        shared = [shared, shared]
    with pytest.raises(ConfigError, match="holds at most 30000 keys and values"):
        Experiment(fusion={"a": {"type": "concat", "inputs": shared}})


def test_a_path_with_a_null_character():
    for path in ("a\0b", "a\0b/c.yaml", "fusekit:a\0b"):
        with pytest.raises(ConfigError, match="there is no such file"):
            load(path)

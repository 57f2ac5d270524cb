"""Reading YAML: values, positions and everything that is refused."""

import math

import pytest

from fusekit.config.source import BYTES, VALUES, parse
from fusekit.config.tree import locate, plain
from fusekit.errors import Position


def messages(text: str) -> list[str]:
    return [problem.message for problem in parse(text, "f").problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("+7", 7),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1e-4", 1e-4),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5E+3", -1500.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2001-01-01", "2001-01-01"),
        ("text@3..", "text@3.."),
        ("image@-4../2", "image@-4../2"),
        ('"1"', "1"),
        ("'true'", "true"),
        ("=", "="),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object):
    reading = parse(f"a: {text}", "f")
    assert reading.problems == []
    assert reading.root is not None
    found = plain(reading.root)
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_infinities_and_nan():
    reading = parse("[.inf, -.Inf, .nan]", "f")
    assert reading.root is not None
    high, low, nan = plain(reading.root)
    assert (high, low) == (math.inf, -math.inf)
    assert math.isnan(nan)


TEXT = """\
# a comment
train:
  batch: 8
  groups: {slow: {paths: [a.*, b]}}
"""


@pytest.mark.parametrize(
    ("path", "key", "line", "column"),
    [
        (("train",), False, 2, 1),
        (("train", "batch"), False, 3, 10),
        (("train", "batch"), True, 3, 3),
        (("train", "groups"), False, 4, 3),
        (("train", "groups", "slow", "paths"), False, 4, 26),
        (("train", "groups", "slow", "paths"), True, 4, 19),
        (("train", "groups", "slow", "paths", 1), False, 4, 32),
        (("train", "groups", "slow", "paths", 9), False, 4, 19),
        (("train", "groups", "fast", "paths"), False, 4, 3),
        (("nothing",), False, 2, 1),
        ((), False, 2, 1),
    ],
)
def test_positions(path: tuple[str | int, ...], key: bool, line: int, column: int):
    root = parse(TEXT, "f.yaml").root
    assert root is not None
    assert locate(root, path, key=key) == Position("f.yaml", line, column)


@pytest.mark.parametrize(
    ("text", "message", "line", "column"),
    [
        ("a: !!int 3", "tags are not", 1, 4),
        ("a: ! 3", "tags are not", 1, 4),
        ("a: !!python/object/apply:os.system [x]", "tags are not", 1, 4),
        ("a: &x 3", "anchors are not", 1, 4),
        ("a: &x {b: 1}", "anchors are not", 1, 4),
        ("a: *x", "aliases are not", 1, 4),
        ("<<: {a: 1}", "merge keys are not", 1, 1),
        ("a: 1\nb: 2\na: 3", "`a` is given twice, first in line 1", 3, 1),
        ("1.5: a", "a key is text or a plain integer", 1, 1),
        ("+1: a", "a key is text or a plain integer", 1, 1),
        ("0x1F: a", "a key is text or a plain integer", 1, 1),
        (f"{'9' * 200}: a", "a number of 200 characters", 1, 1),
        ('1: a\n"1": b', "`1` is given twice, first in line 1", 2, 1),
        ("true: a", "a key is text", 1, 1),
        ("~: a", "a key is text", 1, 1),
        ("? [a, b]\n: c", "a key is text", 1, 3),
        ("? {a: b}\n: c", "a key is text", 1, 3),
        ("a: 1\n---\nb: 2", "a file holds one document", 2, 1),
        ("%YAML 1.1\n---\na: 1", "directives are not", 2, 1),
        ("%TAG ! tag:x,2000:\n---\na: 1", "directives are not", 2, 1),
        ("a: [1\nb: 2", "not YAML", 2, 2),
        ("a: b: c", "not YAML", 1, 5),
        ("a:\n\tb: 1", "not YAML", 2, 1),
        ("a: 'x", "not YAML", 1, 6),
        ("a: \x01", "not YAML: a control character", 1, 4),
        ('a: "\\UFFFFFFFF"', "not YAML", 1, 1),
        ('a: "\\uD800"', "half of a surrogate", 1, 4),
        ("a: " + "9" * 5000, "a number of 5000 characters", 1, 4),
        ("a: @x", "not YAML", 1, 4),
    ],
)
def test_what_is_refused_and_where(text: str, message: str, line: int, column: int):
    (problem,) = parse(text, "f").problems
    assert problem.message.startswith(message)
    assert problem.position == Position("f", line, column)


def test_everything_refused_is_reported_at_once():
    found = messages("a: !x 1\nb: &y 2\n<<: 3\nc: 4\nc: 5\n6.5: 7\n")
    assert [message.split()[0] for message in found] == ["tags", "anchors", "merge", "`c`", "a"]


def test_a_plain_integer_is_a_key():
    reading = parse("{3: a, -1: b, 0: {12: c}, '4': d}", "f")
    assert reading.problems == []
    assert reading.root is not None
    assert plain(reading.root) == {"3": "a", "-1": "b", "0": {"12": "c"}, "4": "d"}
    assert locate(reading.root, ("0", "12"), key=True) == Position("f", 1, 19)


@pytest.mark.parametrize(
    ("key", "found", "expected"),
    [
        ("true", "true", '"true"'),
        ("~", "null", '"~"'),
        ("1.50", "1.5", '"1.50"'),
        ("007", "007", "7"),
        ("0o17", "0o17", "15"),
    ],
)
def test_what_is_due_in_place_of_another_key(key: str, found: str, expected: str):
    (problem,) = parse(f"{key}: a", "f").problems
    assert (problem.found, problem.expected) == (found, expected)


def test_a_refused_key_leaves_the_rest_readable():
    reading = parse("? [a, {b: c}]\n: {d: [1]}\ne: 2\n<<: {f: 1}\ng: 3", "f")
    assert reading.root is not None
    assert plain(reading.root) == {"e": 2, "g": 3}
    assert len(reading.problems) == 2


def test_depth():
    assert messages("[" * 32 + "]" * 32) == []
    assert messages("[" * 33 + "]" * 33) == ["nested deeper than 32"]
    assert messages("[" * 200_000) == ["nested deeper than 32"]
    deep = "".join(f"{' ' * i}a:\n" for i in range(40))
    assert messages(deep) == ["nested deeper than 32"]


def test_size():
    assert messages("#" * BYTES) == []
    assert messages("#" * (BYTES + 1)) == [f"a config is at most {BYTES} bytes long"]


def test_how_much_one_file_holds():
    assert messages("[" + "1," * (VALUES - 1) + "]") == []
    assert messages("[" + "1," * VALUES + "]") == ["a config holds at most 30000 keys and values"]


def test_an_alias_bomb_is_refused_before_it_grows():
    text = "a0: &a0 [x, x]\n"
    text += "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    reading = parse(text, "f")
    assert reading.root is None
    assert len(reading.problems) == 50


def test_a_byte_order_mark_and_an_empty_file():
    for text in ("", "# nothing\n", "\ufeff"):
        root = parse(text, "f").root
        assert root is not None
        assert plain(root) == {}
    root = parse("\ufeffa: 1", "f").root
    assert root is not None
    assert locate(root, ("a",), key=True) == Position("f", 1, 1)

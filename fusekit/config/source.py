"""YAML 1.2 text -> a tree with the position of every key and value.

A config is data: mappings, lists and scalars. What YAML has beyond that (tags, anchors, aliases,
merge keys, several documents) is refused, as are duplicate keys, keys that are neither text nor
plain integers, nesting deeper than 32, more than 30 000 keys and values, and text longer than
1 MiB. Everything that is wrong is reported at once. An integer as a key stands in the tree as
text: whether it is a number says what it is the key of.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from fusekit.config.scalars import resolve, show
from fusekit.config.tree import Node, Path
from fusekit.errors import ConfigError, Position, Problem

DEPTH = 32
BYTES = 1 << 20
VALUES = 30_000
PROBLEMS = 50
"""Reading stops after so many problems."""
KEY = "a key is text or a plain integer"


@dataclass
class Reading:
    """What came of reading a text: a tree unless it is beyond reading, and the problems."""

    root: Node | None
    problems: list[Problem]


class _StopError(Exception):
    """Nothing sensible can be read after this."""


@dataclass
class _Frame:
    """A mapping or list under construction; a mapping's children are its keys and values in
    turn. A key that was refused stands as a null."""

    position: Position
    mapping: bool
    children: list[Node] = field(default_factory=list)
    names: dict[str, Position] = field(default_factory=dict)

    @property
    def key_next(self) -> bool:
        return self.mapping and len(self.children) % 2 == 0

    def finish(self) -> Node:
        if not self.mapping:
            return Node(self.children, self.position)
        fields: dict[str, Node] = {}
        for key, value in zip(self.children[::2], self.children[1::2], strict=False):
            if isinstance(key.value, str):
                value.key = key.position
                fields[key.value] = value
        return Node(fields, self.position)


@dataclass
class _Reader:
    file: str
    single: Position | None = None
    problems: list[Problem] = field(default_factory=list)
    frames: list[_Frame] = field(default_factory=list)
    root: Node | None = None
    documents: int = 0
    values: int = 0

    def position(self, mark: Any) -> Position:
        return self.single or Position(self.file, mark.line + 1, mark.column + 1)

    def path(self) -> Path:
        steps: list[str | int] = []
        for frame in self.frames:
            if not frame.mapping:
                steps.append(len(frame.children))
            elif not frame.key_next and isinstance(frame.children[-1].value, str):
                steps.append(frame.children[-1].value)
        return tuple(steps)

    def complain(self, mark: Any, message: str, *, found: str = "", expected: str = "") -> None:
        self.problems.append(
            Problem(self.path(), message, found, expected, position=self.position(mark))
        )
        if len(self.problems) >= PROBLEMS:
            raise _StopError

    def event(self, event: Any) -> None:
        match type(event).__name__:
            case "DocumentStartEvent":
                self.document(event)
            case "AliasEvent":
                self.complain(
                    event.start_mark,
                    "aliases are not part of the language",
                    found=f"*{event.anchor}",
                    expected="the value itself, or `extends` to share it between files",
                )
                self.add(Node(None, self.position(event.start_mark)))
            case "ScalarEvent":
                self.bare(event)
                self.count(event)
                key = bool(self.frames) and self.frames[-1].key_next
                self.add(self.name(event) if key else self.scalar(event))
            case "MappingStartEvent" | "SequenceStartEvent":
                self.open(event)
            case "MappingEndEvent" | "SequenceEndEvent":
                self.add(self.frames.pop().finish())

    def count(self, event: Any) -> None:
        """Refuses more values and keys than a config needs."""
        self.values += 1
        if self.values > VALUES:
            self.complain(event.start_mark, f"a config holds at most {VALUES} keys and values")
            raise _StopError

    def add(self, node: Node) -> None:
        if self.frames:
            self.frames[-1].children.append(node)
        else:
            self.root = node

    def document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            self.complain(event.start_mark, "a file holds one document", found="a second one")
            raise _StopError
        if event.version not in (None, (1, 2)) or event.tags:
            self.complain(event.start_mark, "directives are not part of the language")

    def bare(self, event: Any) -> None:
        """Refuses what may be attached to a value: anchors and tags."""
        if event.anchor is not None:
            self.complain(
                event.start_mark,
                "anchors are not part of the language",
                found=f"&{event.anchor}",
                expected="the value alone",
            )
        if event.tag is not None:
            self.complain(
                event.start_mark,
                "tags are not part of the language",
                found=str(event.tag),
                expected="the value alone",
            )

    def open(self, event: Any) -> None:
        self.bare(event)
        self.count(event)
        if len(self.frames) >= DEPTH:
            self.complain(
                event.start_mark,
                f"nested deeper than {DEPTH}",
                expected="mappings and lists in one another at most that often",
            )
            raise _StopError
        if self.frames and self.frames[-1].key_next:
            self.complain(event.start_mark, KEY, found="a list or mapping")
        mapping = type(event).__name__ == "MappingStartEvent"
        self.frames.append(_Frame(self.position(event.start_mark), mapping))

    def scalar(self, event: Any) -> Node:
        position = self.position(event.start_mark)
        if any("\ud800" <= letter <= "\udfff" for letter in event.value):
            self.complain(event.start_mark, "half of a surrogate pair is not a character")
            return Node("", position)
        if event.style:
            return Node(event.value, position)
        try:
            return Node(resolve(event.value), position)
        except ValueError as error:
            self.complain(event.start_mark, str(error))
            return Node(0, position)

    def name(self, event: Any) -> Node:
        """A key; one that is refused becomes a null."""
        frame, told = self.frames[-1], len(self.problems)
        node = self.scalar(event)
        name, position = node.value, node.position
        if type(name) is int and str(name) == event.value:
            name = node.value = event.value
        if len(self.problems) > told:
            pass
        elif not isinstance(name, str):
            due = str(name) if type(name) is int else show(event.value)
            found = event.value if type(name) is int else show(name)
            self.complain(event.start_mark, KEY, found=found, expected=due)
        elif name == "<<" and not event.style:
            self.complain(
                event.start_mark,
                "merge keys are not part of the language",
                found="<<",
                expected="`extends`, which merges files",
            )
        elif name in frame.names:
            first = frame.names[name]
            where = "" if self.single else f", first in line {first.line}"
            self.complain(event.start_mark, f"`{name}` is given twice{where}")
        else:
            frame.names[name] = self.position(event.start_mark)
            return node
        return Node(None, position)


def _events(text: str) -> Iterator[Any]:
    return YAML(typ="safe", pure=True).parse(text)


def parse(text: str, file: str, *, single: Position | None = None) -> Reading:
    """Reads a text. `file` names it in positions.

    With `single`, everything is said to stand at that one position.
    """
    reader = _Reader(file, single)
    start = single or Position(file, 1, 1)
    if len(text.encode("utf-8", "surrogatepass")) > BYTES:
        problem = Problem((), f"a config is at most {BYTES} bytes long", position=start)
        return Reading(None, [problem])
    try:
        for event in _events(text.removeprefix("\ufeff")):
            reader.event(event)
    except _StopError:
        return Reading(None, reader.problems)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = reader.position(mark) if mark else start
        words = " ".join(str(error.problem or "cannot be read").split())
        due = next((hint for sign, hint in _HINTS if sign in words), "")
        return _broken(reader, where, f"not YAML: {words}", due)
    except ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        line = before.count("\n")
        where = single or Position(file, line + 1, len(before) - before.rfind("\n"))
        return _broken(reader, where, "not YAML: a control character outside of quotes")
    except (YAMLError, ValueError, OverflowError, LookupError, AttributeError, TypeError):
        last = reader.frames[-1] if reader.frames else None
        where = last.position if last else None
        return _broken(reader, where or start, "not YAML: cannot be read from here on")
    root = reader.root
    if root is None or (root.value is None and not single):
        root = Node({} if not single else None, start)
    return Reading(root, reader.problems)


_HINTS = (
    ("character '\\t'", "spaces for indentation, not tabs"),
    ("cannot start any token", "quotes around text that begins with a special character"),
    ("mapping values", "equal indentation in a mapping, and quotes around text that holds `: `"),
)


def _broken(reader: _Reader, where: Position, message: str, due: str = "") -> Reading:
    problem = Problem(reader.path(), message, expected=due, position=where)
    return Reading(None, [*reader.problems, problem])


def decode(data: bytes, file: str) -> str:
    """Bytes of a file as text; raises `ConfigError` if it is too long or not UTF-8."""
    if len(data) > BYTES:
        message = f"a config is at most {BYTES} bytes long"
        raise ConfigError([Problem((), message, position=Position(file, 1, 1))])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n")
        column = error.start - before.rfind(b"\n")
        where = Position(file, line + 1, column)
        raise ConfigError([Problem((), "not UTF-8 text", position=where)]) from None

"""References: how a config names a stream, `NAME[@POINT][.PORT...]`.

A node of a part is named `PART.NODE`, with a point too: `PART.NODE@3`. Without a point the names
alone do not tell nodes from ports; the graph does, which knows the parts.

Layers count from 0. `x@input` is what enters layer 0, `x@k` the output of layer k, `x@-1` that of
the last, `x` the end after the final norm. Ranges are inclusive: `@3..`, `@..3`, `@-4..`, `@..`,
`@3../4`; lists are `@0+4+8`.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

INPUT = -1
"""The layer index that stands for `@input`, once a point is resolved."""

NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_COUNT = r"[0-9]{1,9}"
_INT = rf"-?{_COUNT}"
POINT = rf"(?:input|{_INT}(?:\+{_INT})*|(?:{_INT})?\.\.(?:{_INT})?(?:/{_COUNT})?)"
PATTERN = rf"^{NAME}(?:(?:\.{NAME})?@{POINT})?(?:\.{NAME})*$"
PLACE_PATTERN = rf"^{NAME}(?:\.{NAME})?@{POINT}$"

_REFERENCE = re.compile(rf"^(?:({NAME}(?:\.{NAME})?)@({POINT})|({NAME}))((?:\.{NAME})*)\Z")
_PLACE = re.compile(rf"^({NAME}(?:\.{NAME})?)@({POINT})\Z")
_RANGE = re.compile(rf"^({_INT})?\.\.({_INT})?(?:/({_COUNT}))?\Z")


class PointError(ValueError):
    """A point names layers that the stack does not have."""


def layers_of(point: str, count: int) -> tuple[int, ...]:
    """The layer indices that a point names in a stack of `count` layers.

    `@input` gives `(INPUT,)`. Raises `PointError` for layers that do not exist.
    """
    if point == "input":
        return (INPUT,)

    def one(text: str) -> int:
        index = int(text)
        resolved = index + count if index < 0 else index
        if not 0 <= resolved < count:
            raise PointError(f"layer {index} does not exist: the stack has {count} layers")
        return resolved

    if match := _RANGE.match(point):
        first, last, step = match.groups()
        if step is not None and int(step) == 0:
            raise PointError("the step of a range is at least 1")
        start = one(first) if first is not None else 0
        stop = one(last) if last is not None else count - 1
        indices = tuple(range(start, stop + 1, int(step or 1)))
        if not indices:
            raise PointError(f"the range @{point} holds no layer of {count}")
        return indices
    indices = tuple(one(text) for text in point.split("+"))
    if any(b <= a for a, b in pairwise(indices)):
        raise PointError(f"the layers of @{point} do not ascend")
    return indices


@dataclass(frozen=True)
class Reference:
    """A parsed reference. `many` says that its point names a tuple of layers."""

    name: str
    point: str | None = None
    ports: tuple[str, ...] = ()

    @property
    def many(self) -> bool:
        return self.point is not None and (".." in self.point or "+" in self.point)

    def __str__(self) -> str:
        point = f"@{self.point}" if self.point is not None else ""
        return self.name + point + "".join(f".{port}" for port in self.ports)


@dataclass(frozen=True)
class Place:
    """Where an operator acts: layers of one stack, or its input."""

    stack: str
    point: str

    def __str__(self) -> str:
        return f"{self.stack}@{self.point}"


def parse_reference(text: Any) -> Reference:
    """Reads a reference; raises `ValueError` with the grammar if it is none."""
    if isinstance(text, Reference):
        return text
    if isinstance(text, str) and (match := _REFERENCE.match(text)):
        pointed, point, name, ports = match.groups()
        return Reference(pointed or name, point, tuple(ports.split(".")[1:]))
    raise ValueError("a reference is NAME[@POINT][.PORT], such as image, text@3 or image.mean")


def parse_place(text: Any) -> Place:
    """Reads a place; raises `ValueError` with the grammar if it is none."""
    if isinstance(text, Place):
        return text
    if isinstance(text, str) and (match := _PLACE.match(text)):
        return Place(*match.groups())
    raise ValueError("a place is STACK@LAYERS, such as image@3.., lm@input or text@0+4+8")


def _text(value: Any) -> Any:
    """A reference or place as text; other members of a union as they are."""
    return str(value) if isinstance(value, Reference | Place) else value


Ref = Annotated[
    Reference,
    BeforeValidator(parse_reference),
    PlainSerializer(_text),
    WithJsonSchema({"type": "string", "pattern": PATTERN, "title": "Reference"}),
]
PlaceRef = Annotated[
    Place,
    BeforeValidator(parse_place),
    PlainSerializer(_text),
    WithJsonSchema({"type": "string", "pattern": PLACE_PATTERN, "title": "Place"}),
]
Role = Annotated[str, Field(pattern=f"^{NAME}$")]
Refs = tuple[Ref, ...] | dict[Role, Ref]
Places = tuple[PlaceRef, ...]


def as_places(value: Any) -> Any:
    """One place is a list of one."""
    return (value,) if isinstance(value, str | Place) else value


Into = Annotated[
    Places,
    Field(min_length=1),
    BeforeValidator(as_places),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": PLACE_PATTERN},
                {
                    "type": "array",
                    "items": {"type": "string", "pattern": PLACE_PATTERN},
                    "minItems": 1,
                },
            ]
        }
    ),
]

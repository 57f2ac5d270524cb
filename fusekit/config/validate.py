"""What pydantic found wrong, as problems: one each, with the path of what is at fault.

Beyond pydantic's own checks, scalars must be of the kind that is due: `"3"` and `true` are no
integers, and `no` is text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    PlainValidator,
    ValidationError,
    WrapValidator,
)

from fusekit.config import words
from fusekit.config.reference import Place, Reference
from fusekit.config.registry import components
from fusekit.config.scalars import show
from fusekit.config.sections import LATER, later
from fusekit.config.tree import Path
from fusekit.config.union import CARRIER, OneOf
from fusekit.errors import Problem, nearest

M = TypeVar("M", bound=BaseModel)

_OWN = (BeforeValidator, PlainValidator, WrapValidator, OneOf)
"""Fields with one of these read values in their own way."""


DUE = "is not what is due here"
NAME_WORDS = "letters, digits and underscores, not beginning with a digit"


@dataclass(frozen=True)
class KeyProblem(Problem):
    """A problem of the key at its path, whatever the value."""


def check(model: type[M], value: Mapping[str, Any]) -> tuple[M | None, list[Problem]]:
    """An instance of the model, or every problem, with paths within it."""
    problems = list(scalars(model, value))
    try:
        made = model.model_validate(value)
    except ValidationError as error:
        return None, tidy([*translate(error, model, value), *problems])
    return (None, tidy(problems)) if problems else (made, [])


def translate(error: ValidationError, model: type[BaseModel], data: Any) -> list[Problem]:
    """The problems behind an error of pydantic.

    Branches of a union complain each in its own way: what lies deepest counts, and of one value
    what a check of its contents says, since the others only say that it is of another kind.
    """
    found: list[tuple[Path, Mapping[str, Any]]] = []
    for detail in error.errors(include_url=False):
        found.append((_place(data, detail["loc"], detail["type"]), detail))
    said = {path for path, detail in found if detail["type"] == "value_error"}
    enclosing = {path[:count] for path, _ in found for count in range(len(path))}
    problems: list[Problem] = []
    for path, detail in found:
        if detail["type"] == CARRIER:
            problems += [problem.under(*path) for problem in detail["ctx"]["it"]]
        elif path in said and detail["type"] not in ("value_error", *_NAMED):
            continue
        elif detail["type"] in _NAMED or path not in enclosing:
            problems.append(_problem(path, detail, model, data))
    return problems


_NAMED = ("missing", "extra_forbidden")


def tidy(problems: list[Problem]) -> list[Problem]:
    """One problem a path: the first."""
    first: dict[Path, Problem] = {}
    for problem in problems:
        first.setdefault(problem.path, problem)
    return list(first.values())


def _place(data: Any, location: Sequence[str | int], kind: str) -> Path:
    """The path in the data of an error's location, which also names branches of unions."""
    path: list[str | int] = []
    missing = kind == "missing"
    for step in location[:-1] if missing else location:
        if _has(data, step):
            data = words.inside(data, step)
            path.append(step)
    return (*path, location[-1]) if missing else tuple(path)


def _has(data: Any, step: str | int) -> bool:
    if isinstance(data, Mapping):
        return step in data
    if isinstance(data, list | tuple):
        return isinstance(step, int) and step < len(data)
    return isinstance(data, BaseModel) and step in type(data).model_fields


def _value(data: Any, path: Path) -> Any:
    for step in path:
        data = words.inside(data, step)
    return data


def label(model: type[BaseModel]) -> str:
    """How to call a model: `fusion concat`, `train`."""
    slot = getattr(model, "slot", None)
    return f"{slot} {type_of(model)}" if slot else model.__name__.lower()


def type_of(model: type[BaseModel]) -> str:
    (name,) = get_args(model.model_fields["type"].annotation)
    return name


def _problem(path: Path, detail: Mapping[str, Any], model: type[BaseModel], data: Any) -> Problem:
    kind = detail["type"]
    owner = words.model_at(model, path[:-1], data) or model
    if detail["loc"] and detail["loc"][-1] == "[key]":
        return _key(path, words.keys(words.at(model, path[:-1], data)))
    if kind == "missing" and isinstance(path[-1], int):
        path, kind = path[:-1], "too_short"
    if kind == "missing":
        field = owner.model_fields.get(str(path[-1]))
        due = words.expected(words.at(model, path, data))
        if field is not None and field.description:
            due += f" ({field.description})"
        return Problem(path, f"`{path[-1]}` is missing", expected=due, lacking=True)
    if kind == "extra_forbidden":
        return _extra(path, owner)
    value = _value(data, path)
    if kind.startswith("union_tag"):
        return _tag(path, value, words.tags(words.at(model, path, None)))
    due = words.expected(words.at(model, path, data))
    if kind == "value_error":
        message = str(detail["ctx"]["error"])
        if not path or words.model_at(model, path, data):
            return Problem(path, message, lacking=True)
        own = any(kind in (Reference, Place) for kind, _ in words.flat(words.at(model, path, data)))
        return Problem(path, DUE if own else message, show(value), due)
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        return Problem(path, "has the wrong length", show(value), due)
    bounds = ("greater_than", "less_than", "multiple_of", "finite_number")
    message = "is out of range" if kind.startswith(bounds) else DUE
    close = (
        nearest(value, words.literals(words.at(model, path, data)))
        if isinstance(value, str)
        else ()
    )
    return Problem(path, message, show(value), due, close)


def _tag(path: Path, value: Any, names: list[str]) -> Problem:
    """A `type` that tells nested models apart is missing or unknown."""
    if not isinstance(value, Mapping) or "type" not in value:
        close = ("type",) if isinstance(value, Mapping) and nearest("type", map(str, value)) else ()
        due = words.one_of(names)
        return Problem(path, "`type` is missing", expected=due, nearest=close, lacking=True)
    name = value["type"]
    close = nearest(name, names) if isinstance(name, str) else ()
    message = "there is no such type"
    return Problem((*path, "type"), message, show(name), words.one_of(names), close)


def _key(path: Path, hints: list[words.Hint]) -> Problem:
    """A key of a mapping that is not what keys of this mapping are."""
    name = str(path[-1])
    choices = words.literals(hints)
    if choices:
        return KeyProblem(
            path, "there is no such key", show(name), words.one_of(choices), nearest(name, choices)
        )
    if any(kind is int for kind, _ in words.flat(hints)):
        return KeyProblem(path, DUE, show(path[-1]), words.expected(hints))
    said = [it.words for _, metadata in hints for it in metadata if isinstance(it, words.Say)]
    if said:
        return KeyProblem(path, DUE, show(name), said[0])
    return KeyProblem(path, "is not a name", show(name), NAME_WORDS)


def _extra(path: Path, owner: type[BaseModel]) -> Problem:
    name = str(path[-1])
    fields = [field for field in owner.model_fields if field not in ("type", "keep")]
    message = f"{label(owner)} has no field `{name}`"
    slot = getattr(owner, "slot", None)
    homes = []
    if slot:
        homes = [other for other, spec in components(slot).items() if name in spec.model_fields]
    close = nearest(name, owner.model_fields)
    if name in LATER and not homes:
        return KeyProblem(path, later(name), expected=LATER[name])
    if homes:
        shown = ", ".join(homes[:4]) + (", …" if len(homes) > 4 else "")
        message += f"; it belongs to {shown}"
    return KeyProblem(path, message, expected=words.one_of(fields or ["type"]), nearest=close)


def scalars(model: type[BaseModel], value: Mapping[str, Any]) -> Iterator[Problem]:
    """Scalars of another kind than is due, which pydantic would convert."""
    for name, item in value.items():
        if name in model.model_fields:
            yield from _unlike([words.hint_of(model.model_fields[name])], item, (name,))


def _unlike(hints: list[words.Hint], value: Any, path: Path) -> Iterator[Problem]:
    if any(isinstance(item, _OWN) for _, metadata in hints for item in metadata):
        return
    members = words.narrowed(hints, value)
    if isinstance(value, Mapping):
        for key, item in value.items():
            step = key if type(key) is int else str(key)
            yield from _unlike(words.below(members, str(key)), item, (*path, step))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _unlike(words.below(members, index), item, (*path, index))
    elif members and not any(_takes(member, value) for member in members):
        close = nearest(value, words.literals(hints)) if isinstance(value, str) else ()
        yield Problem(path, DUE, show(value), words.expected(hints), close)


def _takes(hint: words.Hint, value: Any) -> bool:
    """Whether a scalar is of the kind that is due. What is no scalar is left to pydantic."""
    annotation, metadata = hint
    if any(isinstance(item, _OWN) for item in metadata):
        return True
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        own = any(value == choice and type(value) is type(choice) for choice in choices)
        return own or value is None  # whether null is due, pydantic knows
    if annotation in (int, float):
        return not isinstance(value, str | bool)
    return annotation is not bool or isinstance(value, bool)

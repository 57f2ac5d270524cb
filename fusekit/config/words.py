"""Field types in plain words: `an integer of at least 1`, `one of a, b, c`."""

import collections.abc
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, WithJsonSchema
from pydantic.fields import FieldInfo

from fusekit.config.reference import Place, Reference
from fusekit.config.tree import Path as Steps
from fusekit.config.union import OneOf


@dataclass(frozen=True)
class Say:
    """Put into `Annotated`, it says what a field takes where bounds cannot."""

    words: str


Hint = tuple[Any, tuple[Any, ...]]
"""A type without `Annotated`, and what it was annotated with."""

_KINDS = {
    int: "an integer",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "the path of a file or folder",
}
_PLURAL = {
    Reference: "references, such as image, text@3 or image.mean",
    Place: "places, such as image@3.., lm@input or text@0+4+8",
}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence)
_MAPS = (dict, Mapping, collections.abc.Mapping)


def hint_of(field: FieldInfo) -> Hint:
    """What a field of a model takes."""
    annotation, metadata = bare(field.annotation)
    return annotation, (*metadata, *field.metadata)


def bare(annotation: Any, metadata: tuple[Any, ...] = ()) -> Hint:
    """Takes `Annotated` and type aliases off."""
    while True:
        if hasattr(annotation, "__value__"):
            annotation = annotation.__value__
        elif get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata = (*more, *metadata)
        elif isinstance(annotation, FieldInfo):
            annotation = annotation.annotation
        else:
            return annotation, _flat(metadata)


def _flat(metadata: Iterable[Any]) -> tuple[Any, ...]:
    flat: list[Any] = []
    for item in metadata:
        flat += item.metadata if isinstance(item, FieldInfo) else [item]
    return tuple(flat)


def members(hint: Hint) -> list[Hint]:
    """The alternatives of a union, without None; a type that is no union is its only one."""
    annotation, metadata = hint
    if any(isinstance(item, OneOf) for item in metadata):
        return [hint]
    if get_origin(annotation) not in (Union, types.UnionType):
        return [] if annotation is type(None) else [hint]
    flat: list[Hint] = []
    for member in get_args(annotation):
        inner, own = bare(member)
        flat += members((inner, (*own, *metadata)))
    return flat


def below(hints: Iterable[Hint], step: str | int) -> list[Hint]:
    """What is due one step deeper: in a list, in a mapping or in a nested model."""
    found: list[Hint] = []
    for hint in hints:
        for annotation, _ in members(hint):
            origin, arguments = get_origin(annotation), get_args(annotation)
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                if step in annotation.model_fields:
                    found.append(hint_of(annotation.model_fields[str(step)]))
            elif isinstance(step, int) and origin in _LISTS and arguments:
                fixed = origin is tuple and arguments[-1] is not Ellipsis
                if not fixed:
                    found.append(bare(arguments[0]))
                elif step < len(arguments):
                    found.append(bare(arguments[step]))
            elif isinstance(step, str) and origin in _MAPS and arguments:
                found.append(bare(arguments[1]))
    return found


def flat(hints: Iterable[Hint]) -> list[Hint]:
    """All alternatives."""
    return [member for hint in hints for member in members(hint)]


def narrowed(hints: Iterable[Hint], value: Any) -> list[Hint]:
    """The alternatives that a value means: of models told apart by `type`, the one it names."""
    every = flat(hints)
    if isinstance(value, Mapping) and isinstance(value.get("type"), str):
        named = [hint for hint in every if value["type"] in tags([hint])]
        return named or every
    return every


def tags(hints: Iterable[Hint]) -> list[str]:
    """The values of `type` by which models are told apart."""
    return [
        tag
        for annotation, metadata in flat(hints)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel)
        if not any(isinstance(item, OneOf) for item in metadata)
        if "type" in annotation.model_fields
        for tag in literals([hint_of(annotation.model_fields["type"])])
    ]


def at(model: type[BaseModel], path: Steps, data: Any) -> list[Hint]:
    """What is due at a path within a model, for the data that is given."""
    hints: list[Hint] = [(model, ())]
    for step in path:
        hints = below(narrowed(hints, data), str(step) if isinstance(data, Mapping) else step)
        data = inside(data, step)
    return narrowed(hints, data)


def inside(data: Any, step: str | int) -> Any:
    """What data has at a step; None if nothing."""
    if isinstance(data, Mapping):
        return data.get(step)
    if isinstance(data, list | tuple) and isinstance(step, int):
        return data[step] if step < len(data) else None
    return getattr(data, str(step), None) if isinstance(data, BaseModel) else None


def model_at(model: type[BaseModel], path: Steps, data: Any) -> type[BaseModel] | None:
    """The nested model at a path, if one is due there."""
    for annotation, metadata in at(model, path, data):
        if any(isinstance(item, OneOf) for item in metadata):
            continue
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
    return None


def keys(hints: Iterable[Hint]) -> list[Hint]:
    """What is due as a key of a mapping."""
    return [
        bare(get_args(annotation)[0])
        for annotation, _ in flat(hints)
        if get_origin(annotation) in _MAPS
    ]


def literals(hints: Iterable[Hint]) -> list[str]:
    """The values that a choice offers, as text."""
    return [
        str(value)
        for hint in hints
        for annotation, _ in members(hint)
        if get_origin(annotation) is Literal
        for value in get_args(annotation)
    ]


def expected(hints: Iterable[Hint]) -> str:
    """All alternatives in words, choices first."""
    words: list[str] = []
    choices: list[str] = []
    for hint in hints:
        for member in members(hint):
            if get_origin(member[0]) is Literal:
                choices += [_value(value) for value in get_args(member[0])]
            else:
                words.append(describe(member))
    every: list[str] = list(dict.fromkeys([*([one_of(choices)] if choices else []), *words]))
    return (", or " if any("," in word for word in every) else " or ").join(every)


def one_of(names: Iterable[str]) -> str:
    """`a`, or `one of a, b`."""
    every = list(names)
    return every[0] if len(every) == 1 else f"one of {', '.join(every)}"


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def describe(hint: Hint) -> str:
    """One alternative in words."""
    annotation, metadata = hint
    origin, arguments = get_origin(annotation), get_args(annotation)
    for item in metadata:
        if isinstance(item, OneOf):
            return item.words()
        if isinstance(item, Say):
            return item.words
    if annotation is Reference:
        return "a reference, NAME[@POINT][.PORT], such as image, text@3 or image.mean"
    if annotation is Place:
        return "a place, STACK@LAYERS, such as image@3.., lm@input or text@0+4+8"
    if annotation in _KINDS:
        return _bounded(_KINDS[annotation], metadata)
    if origin in _LISTS and arguments:
        if origin is tuple and arguments[-1] is not Ellipsis:
            each = [expected([bare(argument)]) for argument in arguments]
            same = len(set(each)) == 1
            inner = f"each {each[0]}" if same else ", ".join(each)
            return f"a list of {len(each)}: {inner}"
        if plural := _PLURAL.get(bare(arguments[0])[0]):
            return f"a list of {plural}"
        inner = expected([bare(arguments[0])])
        return f"a list, each {inner}{_sized(metadata)}"
    if origin in _MAPS and arguments:
        if plural := _PLURAL.get(bare(arguments[1])[0]):
            return f"a mapping of {plural}"
        return f"a mapping, each value {expected([bare(arguments[1])])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if named := tags([hint]):
            return f"{{type: {named[0]}, …}}"
        return f"a mapping of {', '.join(annotation.model_fields)}"
    for item in metadata:
        if isinstance(item, WithJsonSchema) and item.json_schema:
            return str(item.json_schema.get("title", "a value of another form"))
    return {list: "a list", dict: "a mapping", tuple: "a list"}.get(annotation, "another value")


def _bounded(kind: str, metadata: tuple[Any, ...]) -> str:
    """`an integer` with its bounds."""
    bounds: dict[str, Any] = {}
    for item in metadata:
        for name in ("ge", "gt", "le", "lt", "multiple_of", "pattern"):
            value = getattr(item, name, None)
            if value is not None:
                bounds[name] = value
        if getattr(item, "min_length", None) and kind == "text":
            kind = "text that is not empty"
    if "pattern" in bounds:
        return f"text of the form {bounds['pattern']}"
    if "multiple_of" in bounds:
        kind = f"{kind} divisible by {bounds['multiple_of']}"
    words = {"ge": "of at least", "gt": "greater than", "le": "at most", "lt": "less than"}
    if "ge" in bounds and "le" in bounds:
        return f"{kind} from {_number(bounds['ge'])} to {_number(bounds['le'])}"
    parts = [f"{words[name]} {_number(bounds[name])}" for name in words if name in bounds]
    return f"{kind} {' and '.join(parts)}" if parts else kind


def _number(value: Any) -> str:
    """`1000000`, `0.5`, `1e12`."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return str(int(value))
    return str(value).replace("e+", "e")


def _sized(metadata: tuple[Any, ...]) -> str:
    for item in metadata:
        least = getattr(item, "min_length", None)
        if least:
            return f", at least {least}"
    return ""

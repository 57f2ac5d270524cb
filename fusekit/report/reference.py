"""The component reference, as Markdown from the registries."""

import inspect
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fusekit.component import Component, OperatorSpec, StackSpec
from fusekit.config.registry import SLOTS, components
from fusekit.config.sections import ENTRY

INTRODUCTION = """# Components

Every component that comes with fusekit, by slot. Made by `fusekit.report.reference` from the
registry: do not edit. `fusekit list` prints a short form, plug-ins included.
"""
_COMMON = ("type", "keep", "input", "inputs", "into", "share", "weight", "where", "of", "optional")


def markdown() -> str:
    """The whole reference."""
    parts = [INTRODUCTION, _contents()]
    for slot in SLOTS:
        known = components(slot)
        if not known:
            continue
        where = f"under `{ENTRY[slot]}`" if slot in ENTRY else "inside other entries"
        parts.append(f"## {slot}\n\n{len(known)} types; they stand {where}.\n")
        parts += [section(slot, name, spec) for name, spec in known.items()]
    return "\n".join(parts).rstrip() + "\n"


def _contents() -> str:
    lines = []
    for slot in SLOTS:
        known = components(slot)
        if known:
            names = ", ".join(f"[{name}](#{_anchor(slot, name)})" for name in known)
            lines.append(f"- **{slot}**: {names}")
    return "\n".join(lines) + "\n"


def _anchor(slot: str, name: str) -> str:
    return f"{slot}-{name}".lower()


def section(slot: str, name: str, spec: type[Component]) -> str:
    """One component: docstring, what kind it is, and a table of its fields."""
    text = f'### <a id="{_anchor(slot, name)}"></a>{name}\n\n{inspect.getdoc(spec) or ""}\n'
    facts = list(_facts(spec))
    if facts:
        text += "\n" + "\n".join(f"- {fact}" for fact in facts) + "\n"
    own = [(n, f) for n, f in spec.model_fields.items() if n != "type"]
    own.sort(key=lambda item: item[0] in _COMMON)
    if own:
        rows = [
            f"| `{n}` | {_type(spec, n)} | {_default(f)} | {_cell(f.description)} |" for n, f in own
        ]
        head = "\n| field | what it takes | default | meaning |\n|---|---|---|---|\n"
        text += head + "\n".join(rows) + "\n"
    return text


def first_line(spec: type[Component]) -> str:
    """The first line of a component's docstring, without its full stop."""
    text = (spec.__doc__ or "").strip()
    return text.split("\n")[0].strip().rstrip(".")


def _facts(spec: type[Component]) -> Iterator[str]:
    if issubclass(spec, StackSpec):
        hooks = ", ".join(sorted(spec.hooks)) or "none"
        yield f"a stack with layers; hooks for operators: {hooks}"
    if issubclass(spec, OperatorSpec):
        needs = f"; needs the hooks {', '.join(sorted(spec.needs))}" if spec.needs else ""
        yield f"edits streams in place, by `into`{needs}"
        if spec.port_names:
            yield "ports: " + ", ".join(f"`.{port}`" for port in spec.port_names)
    if spec.couples != "none":
        because = f": {spec.couples_because}" if spec.couples_because else ""
        when = "in training" if spec.couples == "train" else "always"
        yield f"couples the samples of a batch {when}{because}"


def _type(spec: type[Component], name: str) -> str:
    """What a field takes, from its JSON Schema: types, choices and bounds."""
    schema = _schema(spec)
    return _cell(_words(schema.get("properties", {}).get(name, {}), schema.get("$defs", {})))


_SCHEMAS: dict[type[Component], dict[str, Any]] = {}


def _schema(spec: type[Component]) -> dict[str, Any]:
    if spec not in _SCHEMAS:
        _SCHEMAS[spec] = spec.model_json_schema()
    return _SCHEMAS[spec]


def _words(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in schema:
        inner = definitions.get(schema["$ref"].rpartition("/")[2], {})
        if "enum" in inner:
            return _words(inner, definitions)
        named = inner.get("properties", {"type": {}})
        return "a component" if "type" in named else f"settings: `{'`, `'.join(named)}`"
    if schema.get("title") == "Reference":
        return "reference"
    if schema.get("title") == "Place":
        return "place"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            every = dict.fromkeys(_words(one, definitions) for one in schema[key])
            return " or ".join(every)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            return _array(schema, definitions)
        case "object":
            inner = schema.get("additionalProperties")
            of = f" to {_words(inner, definitions)}" if isinstance(inner, dict) and inner else ""
            return f"mapping of names{of}"
        case "integer" | "number" as kind:
            return ("integer" if kind == "integer" else "number") + _bounds(schema)
        case "string":
            return "text"
        case "boolean":
            return "`true` or `false`"
        case "null":
            return "null"
    return "a component"


def _array(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "prefixItems" in schema:
        return "[" + ", ".join(_words(one, definitions) for one in schema["prefixItems"]) + "]"
    return f"list of {_words(schema.get('items', {}), definitions)}"


def _bounds(schema: dict[str, Any]) -> str:
    words = [
        f"{sign} {_number(schema[key])}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    return f" {', '.join(words)}" if words else ""


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:g}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, Component):
        return f"`{value.type}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, dict):
        return "`{}`" if not value else f"`{value}`"
    return f"`{value}`"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")

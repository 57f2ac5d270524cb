"""JSON Schema (draft 2020-12) of the language, from the registries, for editors.

A file that extends another may hold less than an experiment: entries without `type`, without
fields that are due in the end, or null to delete. So every slot has two schemas, whole and
partial, and the presence of `extends` chooses.
"""

import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from fusekit.config.mesh import Mesh
from fusekit.config.meta import Meta
from fusekit.config.part import Part
from fusekit.config.reference import NAME
from fusekit.config.registry import SLOTS, components, walk
from fusekit.config.sections import NODES, RESERVED, RESERVED_NODES, SECTIONS, VERSION
from fusekit.config.spec import Experiment
from fusekit.config.train import Group, Stage, Train
from fusekit.config.union import SLOT_KEY

ENTRIES = {"parts": "part", "stages": "stage"}
"""Sections with entries that are no components, and what these are."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema of a config file, for all components that are registered."""
    definitions, required = _components()
    for slot in SLOTS:
        names = list(components(slot))
        definitions[slot] = _whole(slot, names, required)
        definitions[f"{slot}.partial"] = _partial(slot, names)
    for section in ("train", "mesh", "meta", *ENTRIES.values()):
        partial = _rewritten(
            definitions[section], lambda name: f"{name}.partial" if name in SLOTS else name
        )
        partial.pop("required", None)
        definitions[f"{section}.partial"] = partial
    extends = {"type": "string", "minLength": 1}
    whole, partial = _sections(definitions, ""), _sections(definitions, ".partial")
    return {
        "$schema": DIALECT,
        "title": "fusekit experiment",
        "description": _line(Experiment),
        "type": "object",
        "properties": {
            "extends": {
                "description": "configs that this one changes; the later wins",
                "anyOf": [extends, {"type": "array", "items": extends, "minItems": 1}],
            },
            "version": {"const": VERSION, "description": "of the language"},
            **{name: {"description": it["description"]} for name, it in whole.items()},
        },
        "required": ["version"],
        "additionalProperties": False,
        "if": {"required": ["extends"]},
        "then": {"properties": partial},
        "else": {"properties": whole},
        "$defs": dict(sorted(definitions.items())),
    }


def write_schema(path: str | PathLike[str]) -> None:
    """Writes the schema to a file."""
    Path(path).write_text(schema_text(), encoding="utf-8")


def schema_text() -> str:
    """The schema as it is written to files."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _components() -> tuple[dict[str, Schema], dict[str, list[str]]]:
    """Schemas of all components and sections under their names, without `required`, and what
    each component requires."""
    named: dict[str, type[BaseModel]] = {f"{slot}.{name}": spec for slot, name, spec in walk()}
    named |= {"train": Train, "mesh": Mesh, "meta": Meta, "train.group": Group}
    named |= {"part": Part, "stage": Stage}
    mode: JsonSchemaMode = "validation"
    made, whole = models_json_schema([(model, mode) for model in named.values()])
    home = "#/$defs/"
    renamed = {made[model, mode]["$ref"].removeprefix(home): name for name, model in named.items()}
    definitions: dict[str, Schema] = {}
    required: dict[str, list[str]] = {}
    for old, schema in whole["$defs"].items():
        name = str(renamed.get(old, old))
        schema = _rewritten(schema, lambda old: str(renamed.get(old, old)))
        schema.pop("title", None)
        if "description" in schema:
            schema["description"] = schema["description"].split("\n")[0]
        if name in named and "." in name and name != "train.group":
            required[name] = ["type", *schema.pop("required", [])]
        definitions[name] = schema
    return definitions, required


def _rewritten(schema: Any, rename: Callable[[str], str]) -> Any:
    """A copy with other names for what it refers to, and without titles of fields."""
    if isinstance(schema, list):
        return [_rewritten(item, rename) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy: Schema = {}
    for key, item in schema.items():
        if key == SLOT_KEY:
            copy["$ref"] = f"#/$defs/{rename(item)}"
        elif key == "$ref":
            copy[key] = f"#/$defs/{rename(item.removeprefix('#/$defs/'))}"
        elif key == "properties":
            copy[key] = {name: _untitled(_rewritten(it, rename)) for name, it in item.items()}
        else:
            copy[key] = _rewritten(item, rename)
    return copy


def _untitled(schema: Schema) -> Schema:
    return {key: item for key, item in schema.items() if key != "title"}


def _whole(slot: str, names: list[str], required: dict[str, list[str]]) -> Schema:
    """A component with everything that it must have."""
    if not names:
        return {"type": "object", "required": ["type"]}
    return {
        "type": "object",
        "required": ["type"],
        "discriminator": {
            "propertyName": "type",
            "mapping": {name: f"#/$defs/{slot}.{name}" for name in names},
        },
        "oneOf": [
            {"$ref": f"#/$defs/{slot}.{name}", "required": required[f"{slot}.{name}"]}
            for name in names
        ],
    }


def _partial(slot: str, names: list[str]) -> Schema:
    """A change of a component: null deletes it, and without a type anything may be changed."""
    typed = [{"$ref": f"#/$defs/{slot}.{name}", "required": ["type"]} for name in names]
    untyped = {"type": "object", "not": {"required": ["type"]}}
    return {"anyOf": [{"type": "null"}, untyped, *typed]}


def _sections(definitions: dict[str, Schema], suffix: str) -> dict[str, Schema]:
    """The sections of a file, whole or partial."""
    found: dict[str, Schema] = {}
    for section, field in Experiment.model_fields.items():
        if section in SECTIONS:
            nodes = section == "modalities" or section in NODES
            reserved = [*RESERVED, *(RESERVED_NODES if nodes else ())]
            found[section] = {
                "description": field.description,
                "type": ["object", "null"],
                "propertyNames": {"pattern": f"^{NAME}$", "not": {"enum": reserved}},
                "additionalProperties": {"$ref": f"#/$defs/{SECTIONS[section]}{suffix}"},
            }
        elif section in ENTRIES:
            entry = {"$ref": f"#/$defs/{ENTRIES[section]}{suffix}"}
            found[section] = {
                "description": field.description,
                "type": ["object", "null"],
                "propertyNames": {"pattern": f"^{NAME}$", "not": {"enum": [*RESERVED]}},
                "additionalProperties": {"anyOf": [entry, {"type": "null"}]} if suffix else entry,
            }
        elif section != "version":
            found[section] = {
                "description": field.description,
                "anyOf": [{"$ref": f"#/$defs/{section}{suffix}"}, {"type": "null"}],
            }
    return found


def _line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]

"""The JSON Schema, against the configs that `load` accepts and refuses."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fusekit.config import json_schema, load, write_schema
from fusekit.config.source import parse
from fusekit.config.tree import plain
from fusekit.errors import ConfigError

GOLDEN = Path(__file__).with_name("golden")

pytestmark = pytest.mark.usefixtures("fakes")


def test_one_definition_a_component():
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    definitions = schema["$defs"]
    concat = definitions["fusion.concat"]
    assert concat["description"] == "One after the other."
    assert concat["additionalProperties"] is False
    assert concat["properties"]["type"]["const"] == "concat"
    assert concat["properties"]["axis"] == {
        "default": "channel",
        "description": "along which",
        "enum": ["channel", "sequence"],
        "type": "string",
    }
    assert definitions["encoder.vit"]["properties"]["mixer"]["anyOf"][0] == {
        "$ref": "#/$defs/encoder"
    }
    head = definitions["head"]
    assert head["discriminator"]["propertyName"] == "type"
    assert head["oneOf"][0] == {
        "$ref": "#/$defs/head.classifier",
        "required": ["type", "input", "classes"],
    }


def test_every_reference_leads_somewhere():
    schema = json_schema()
    text = json.dumps(schema)
    assert "x-fusekit-slot" not in text

    def visit(node: Any) -> None:
        if isinstance(node, dict):
            target = node.get("$ref")
            if isinstance(target, str):
                assert target.removeprefix("#/$defs/") in schema["$defs"]
            for child in node.values():
                visit(child)
        elif isinstance(node, list):
            for child in node:
                visit(child)

    visit(schema)


def test_writing_is_deterministic(tmp_path: Path):
    write_schema(tmp_path / "a.json")
    write_schema(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == json_schema()


def test_it_agrees_with_load(monkeypatch: pytest.MonkeyPatch):
    """What load accepts, the schema accepts; what only types decide, it refuses."""
    monkeypatch.chdir(GOLDEN)
    schema = json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    for file in sorted(GOLDEN.rglob("*.yaml")):
        reading = parse(file.read_text(), file.name)
        if reading.root is None or "graph" in file.parts:
            continue
        try:
            load(file.relative_to(GOLDEN))
        except ConfigError:
            continue
        assert validator.is_valid(plain(reading.root)), file.name
    for name in ("field_typo", "type_typo", "int_text", "section_typo", "version_missing"):
        reading = parse((GOLDEN / f"{name}.yaml").read_text(), name)
        assert reading.root is not None
        assert not validator.is_valid(plain(reading.root)), name

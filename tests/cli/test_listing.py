"""`list`, `schema`, `doctor`, `new`, `test-component`."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusekit.cli import new
from fusekit.config import json_schema, load, registry

COMPONENT = '''
from typing import Literal
from fusekit.component import TransformSpec, register


@register
class CliMadeSpec(TransformSpec):
    """Made by a test."""

    type: Literal["cli_made"] = "cli_made"
'''


def test_list(fusekit: Any) -> None:
    ran = fusekit("list", "encoder")
    known = registry.components("encoder")
    assert ran.out.splitlines()[0] == f"encoder ({len(known)})"
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == list(known)
    everything = json.loads(fusekit("list", "--json").out)
    assert list(everything) == list(registry.SLOTS)
    assert list(everything["fusion"]) == list(registry.components("fusion"))
    assert all(line for known in everything.values() for line in known.values())


def test_list_of_what_is_no_slot(fusekit: Any) -> None:
    ran = fusekit("list", "encodr")
    assert ran.status == 2
    assert "did you mean encoder?" in ran.err


def test_schema(fusekit: Any, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    assert fusekit("schema", "-o", path).status == 0
    assert json.loads(path.read_text(encoding="utf-8")) == json_schema()


def test_doctor(fusekit: Any) -> None:
    ran = fusekit("doctor")
    assert ran.status == 0, ran.err
    for part in ("python 3", "pydantic", "fusekit_modules", "cpu 0"):
        assert part in ran.out


def test_new(fusekit: Any, tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config that extends another arrives whole."""
    shipped = tmp_path / "shipped"
    (shipped / "examples").mkdir(parents=True)
    tiny.rename(shipped / "examples" / "tiny.yaml")
    child = shipped / "examples" / "child.yaml"
    child.write_text("version: 1\nextends: tiny.yaml\nmeta: {name: child}\n", encoding="utf-8")
    for user in ("compose", "loader"):
        monkeypatch.setattr(f"fusekit.config.{user}.shipped", lambda: shipped)
    folder = tmp_path / "mine"
    ran = fusekit("new", folder, "--from", "examples/child")
    assert ran.status == 0, ran.err
    text = (folder / "child.yaml").read_text(encoding="utf-8")
    assert "extends" not in text
    assert load(folder / "child.yaml").experiment == load(child).experiment
    assert "fusekit train child.yaml" in (folder / "README.md").read_text(encoding="utf-8")
    again = fusekit("new", folder, "--from", "examples/child")
    assert again.status == 2
    assert "not an empty folder" in again.err
    wrong = fusekit("new", tmp_path / "other", "--from", "examples/chidl")
    assert "did you mean: examples/child" in wrong.err
    assert not (tmp_path / "other").exists()


def test_what_ships_can_be_found() -> None:
    from fusekit.config.compose import shipped

    for path in shipped().rglob("*.yaml"):
        name = path.relative_to(shipped()).as_posix()
        assert new._shipped(name.removesuffix(".yaml")) == name


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """In place of the conformance suite: what it was asked to test."""
    asked: list[list[str]] = []
    monkeypatch.setitem(
        sys.modules,
        "fusekit.conformance",
        SimpleNamespace(run=lambda names: asked.append(names) or 3),
    )
    return asked


def test_components_by_name(fusekit: Any, suite: list[list[str]]) -> None:
    assert fusekit("test-component", "vit", "fusion.concat").status == 3
    assert suite == [["encoder.vit", "fusion.concat"]]
    ran = fusekit("test-component", "vitt")
    assert ran.status == 2
    assert "did you mean: vit" in ran.err


def test_components_of_a_file(
    fusekit: Any, suite: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.load_plugins()
    kept = {slot: dict(known) for slot, known in registry._registered.items()}
    monkeypatch.setattr(registry, "_registered", kept)
    path = tmp_path / "cli_made.py"
    path.write_text(COMPONENT, encoding="utf-8")
    assert fusekit("test-component", path).status == 3
    assert suite == [["transform.cli_made"]]
    monkeypatch.delitem(sys.modules, "cli_made")
    missing = fusekit("test-component", tmp_path / "nothing.py")
    assert missing.status == 2
    assert "there is no file" in missing.err


def test_a_missing_suite_is_said_plainly(fusekit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fusekit.conformance", None)
    ran = fusekit("test-component", "vit")
    assert ran.status == 2
    assert ran.err == "the conformance suite is not part of this installation\n"

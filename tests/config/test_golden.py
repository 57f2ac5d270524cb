"""The exact words for every kind of mistake.

`golden/*.yaml` are configs with mistakes, over the fake components, so that messages do not
change with every new component; `golden/graph/*.yaml`, over the standard components, are checked
as far as the graph. Comments `# --set a.b=value` at the top of a file are overrides. Beside
each file stands a `.txt` with the message that is due.

To write all messages anew, and then to read the difference with care:

    FUSEKIT_GOLDEN=write python -m pytest tests/config/test_golden.py

Continuous integration never sets it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusekit.config import load
from fusekit.errors import ConfigError, ProblemsError
from fusekit.graph import Graph, resolve

GOLDEN = Path(__file__).with_name("golden")
WRITE = os.environ.get("FUSEKIT_GOLDEN") == "write"
LANGUAGE = sorted(file.stem for file in GOLDEN.glob("*.yaml"))
GRAPH = sorted(file.stem for file in (GOLDEN / "graph").glob("*.yaml"))


def overrides(file: Path) -> list[str]:
    mark = "# --set "
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix(mark) for line in lines if line.startswith(mark)]


def compare(folder: Path, name: str, check: Callable[[str, list[str]], Any]) -> None:
    file = folder / f"{name}.yaml"
    with pytest.raises(ProblemsError) as caught:
        check(file.name, overrides(file))
    found = f"{caught.value}\n"
    due = file.with_suffix(".txt")
    if WRITE:
        due.write_text(found, encoding="utf-8")
    assert due.exists(), f"no message is written down for {name}: see the top of this file"
    assert found == due.read_text(encoding="utf-8")


def checked(file: str, over: list[str]) -> Graph:
    loaded = load(file, over)
    return resolve(loaded.experiment, loaded.locate)


@pytest.mark.parametrize("name", LANGUAGE)
@pytest.mark.usefixtures("fakes")
def test_language(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(GOLDEN)
    compare(GOLDEN, name, load)


@pytest.mark.parametrize("name", GRAPH)
def test_graph(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(GOLDEN / "graph")
    compare(GOLDEN / "graph", name, checked)


@pytest.mark.usefixtures("fakes")
def test_the_base_itself_is_right(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(GOLDEN)
    assert load("base/good.yaml").experiment.version == 1


def test_the_base_of_graphs_is_right(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(GOLDEN / "graph")
    assert [*checked("base/good.yaml", []).losses] == ["digit"]


def test_every_message_has_its_config():
    orphans = [
        str(text.relative_to(GOLDEN))
        for text in GOLDEN.rglob("*.txt")
        if not text.with_suffix(".yaml").exists()
    ]
    assert orphans == []


@pytest.mark.usefixtures("fakes")
def test_every_problem_has_a_position_and_a_short_message(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(GOLDEN)
    for name in LANGUAGE:
        with pytest.raises(ConfigError) as caught:
            load(f"{name}.yaml", overrides(GOLDEN / f"{name}.yaml"))
        for problem in caught.value.problems:
            assert problem.position is not None, name
            assert len(str(problem).splitlines()) <= 4, name
            assert not problem.message.endswith("."), name
            assert "pydantic" not in str(problem), name

"""What the README and the guide show is run as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fusekit.cli.main import application
from fusekit.config import loads
from fusekit.config.source import parse
from fusekit.graph import resolve
from tests.docs.pages import PAGES, ROOT, Block, blocks

EVERY = [block for page in PAGES for block in blocks(page)]
FRAGMENT, OUTPUT = "<!-- fragment -->", "<!-- output -->"


def of(language: str) -> list[Any]:
    """Blocks of a language that are not files of the package that a page builds."""
    chosen = [b for b in EVERY if b.language == language and b.file is None]
    return [pytest.param(block, id=block.name) for block in chosen]


@pytest.mark.parametrize("block", of("yaml"))
def test_a_config_resolves(block: Block):
    if block.before == FRAGMENT:
        reading = parse(block.text, block.name)
        assert reading.root is not None
        assert not reading.problems
        return
    loaded = loads(block.text, block.name)
    resolve(loaded.experiment, loaded.locate)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    printed = None
    for block in blocks(page):
        if block.language == "python" and block.file is None:
            source = "\n" * block.line + block.text
            exec(compile(source, str(page), "exec"), names)
            printed = capsys.readouterr().out
        elif block.before == OUTPUT:
            assert printed is not None, block.name
            assert printed.splitlines() == block.text.splitlines(), block.name


def command_lines() -> list[Any]:
    lines = [
        (block.name, line)
        for block in EVERY
        if block.language == "sh"
        for line in block.text.splitlines()
        if re.match(r"(?:\S*/)?fusekit ", line)
    ]
    return [pytest.param(line, id=f"{name} {line}") for name, line in lines]


COMMANDS = getattr(typer.main.get_command(application()), "commands")  # noqa: B009 - click's


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_is_understood(line):
    _, name, *words = shlex.split(line, comments=True)
    command = COMMANDS[name]
    # parses options and arguments by their declarations, and runs nothing
    command.make_context(name, list(words))
    for word in words:
        if word.endswith(".yaml") and word.startswith(("configs/", "fusekit:")):
            assert (
                ROOT / "configs" / word.removeprefix("fusekit:").removeprefix("configs/")
            ).is_file()


LINKED = [PAGES[0], *sorted((ROOT / "docs").glob("*/*.md"))]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target or (not path and anchor):
            continue
        assert (page.parent / path).exists(), target


def test_the_config_of_the_readme_is_the_shipped_one():
    shown = next(b for b in blocks(ROOT / "README.md") if b.language == "yaml").text
    shipped = (ROOT / "configs" / "base" / "av_digits.yaml").read_text(encoding="utf-8")
    assert _bare(shown) == _bare(shipped)


def test_strategies_differ_by_the_line_that_the_readme_shows():
    folder = ROOT / "configs" / "examples" / "digits"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("<!-- strategies -->")[2].partition("<!-- /strategies -->")[0]
    shown = dict(re.findall(r"^(\w+\.yaml) +(fusion: .+)$", section, re.M))
    assert len(shown) == 5
    baseline = _bare((folder / "concat.yaml").read_text(encoding="utf-8"))
    for name, line in shown.items():
        lines = _bare((folder / name).read_text(encoding="utf-8"))
        changed = [i for i, (a, b) in enumerate(zip(baseline, lines, strict=True)) if a != b]
        assert len(changed) == 1, name
        assert lines[changed[0]] == line


def test_the_component_reference_is_current():
    written = (ROOT / "docs" / "reference" / "components.md").read_text(encoding="utf-8")
    code = "import sys; from fusekit.report.reference import markdown; sys.stdout.write(markdown())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert written == done.stdout, "run python tools/make_reference.py"


def _bare(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]

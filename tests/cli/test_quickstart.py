"""The quickstart's strategies are possible: what its `compare` lines train resolves."""

import re
import shlex
from pathlib import Path

import pytest

from fusekit.study import strategies

PAGE = (Path(__file__).parents[2] / "docs" / "guide" / "quickstart.md").read_text(encoding="utf-8")
LINES = re.findall(r"^fusekit compare .*$", PAGE, re.M)
FILES = re.findall(r"[Ww]rite `(\w+\.yaml)`[^\n]*:\n\n```yaml\n(.*?)```", PAGE, re.S)


@pytest.mark.parametrize("line", LINES)
def test_compare(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [name for name, _ in FILES] == ["mine.yaml", "early.yaml"]
    for name, text in FILES:
        Path(name).write_text(text, encoding="utf-8")
    _, _, config, *words = shlex.split(line)
    names = words[words.index("--fusion") + 1].split(",")
    found = strategies(config, ["concat", *names])
    assert len(found) == 1 + len(names)

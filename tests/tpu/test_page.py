"""The commands of docs/guide/pods.md make files from the config that the page shows."""

import re
import shlex
from pathlib import Path

import pytest

from fusekit.cli.main import run
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "guide" / "pods.md"
BLOCKS = blocks(PAGE)
LINES = [
    line
    for block in BLOCKS
    if block.language == "sh"
    for line in block.text.splitlines()
    if re.match("fusekit (launch|check) ", line)
]


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_page(line, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.chdir(tmp_path)
    (shown,) = [block.text for block in BLOCKS if block.file == "pod.yaml"]
    Path("pod.yaml").write_text(shown, encoding="utf-8")
    words = shlex.split(line)[1:]
    status = run(words)
    told = capsys.readouterr()
    assert (status, told.err) == (0, "")
    if words[0] == "launch":
        folder = Path(words[words.index("--output") + 1])
        assert any(folder.iterdir())
        if "gke" in words:
            assert "kubectl apply -f job/jobset.yaml" in told.out
            assert f"\n{told.out.splitlines()[-1].strip()}\n" in PAGE.read_text(encoding="utf-8")


def test_the_page_has_every_target():
    shown = {
        words[words.index("--target") + 1] for words in map(str.split, LINES) if "launch" in words
    }
    assert shown == {"gke", "xpk", "queued-resources", "slurm", "ray", "container"}

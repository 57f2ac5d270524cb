"""`show`, and what checking and showing a very large model may cost."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.support.often import often

HERE = Path(__file__).parent
MEASURED = """
import resource, sys
from fusekit.cli.main import run
status = run(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
status_lines = open("/proc/self/status").read().splitlines()
(peak,) = [line.split()[1] for line in status_lines if line.startswith("VmHWM")]
print(status, used.ru_utime + used.ru_stime, int(peak) // 1024, file=sys.stderr)
"""
# Not `ru_maxrss`: a new process begins with that of the one that started it.


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("command", often(["check", "show"], ["check"]))
def test_a_model_of_19_billion_parameters(process: Any, command: str) -> None:
    """Less than 5 s of processor time and 500 MB, imports included: no weight is allocated."""
    ran = process(command, HERE / "big.yaml", code=MEASURED)
    status, seconds, megabytes = ran.err.split()[-3:]
    assert status == "0", ran.err
    assert "5 nodes, 96 layers, 19.5 G parameters" in ran.out
    assert float(seconds) < 5
    assert int(megabytes) < 500


def test_forms(fusekit: Any, tmp_path: Path) -> None:
    config = HERE / "crossed.yaml"
    text = fusekit("show", config)
    assert text.status == 0
    assert "edited by shared at 1..3" in text.out
    assert "FLOP a sample" in text.out
    assert fusekit("show", config, "--format", "mermaid").out.startswith("flowchart LR\n")
    picture = tmp_path / "picture.svg"
    assert fusekit("show", config, "--format", "svg", "--output", picture).out == ""
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def test_a_file_that_cannot_be_written(fusekit: Any, tmp_path: Path) -> None:
    ran = fusekit("show", HERE / "tiny.yaml", "-o", tmp_path / "missing" / "file.txt")
    assert ran.status == 2
    assert "cannot be written: No such file or directory" in ran.err

"""Running `fusekit` here, and as a process."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fusekit.cli.main import run

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    status: int
    out: str
    err: str


Fusekit = Callable[..., Ran]


@pytest.fixture
def fusekit(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Fusekit:
    """Runs a command line in this process."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def go(*arguments: object) -> Ran:
        capfd.readouterr()
        status = run([str(a) for a in arguments])
        told = capfd.readouterr()
        return Ran(status, told.out, told.err)

    return go


@pytest.fixture(scope="session")
def process() -> Fusekit:
    """Runs a command line, or some Python, in a process of its own."""
    return _process


def _process(*arguments: object, code: str = "from fusekit.cli.main import main; main()") -> Ran:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "COLUMNS": "100"},
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the tiny config, to be changed."""
    path = tmp_path / "tiny.yaml"
    path.write_text((HERE / "tiny.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    return path

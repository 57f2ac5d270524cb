"""What `fusekit compare` refuses, before anything is trained."""

from pathlib import Path

import pytest

from fusekit.cli.main import run

CONFIG = Path(__file__).parents[2] / "configs/examples/digits/concat.yaml"


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--rates", "nan"), "--rates is a list of learning rates"),
        (("--rates", "0.1,inf"), "--rates is a list of learning rates"),
        (("--knob", "gatd:encoders.*.width"), "a knob is of gatd, which takes no part"),
        (("--group", "voices"), "there is no column 'voices'"),
    ],
)
def test_refused(option, told, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    given = ["compare", str(CONFIG), "--fusion", "gated", *option, "--runs", str(tmp_path)]
    assert run(given) != 0
    # help of errors may be wrapped in a box
    words = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert told in words
    assert list(tmp_path.iterdir()) == []

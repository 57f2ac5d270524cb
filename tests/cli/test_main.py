"""Exit codes, messages and what is imported when."""

from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BROKEN = """version: 1
modalities:
  left: {type: features, widht: 4}
"""


def test_help_imports_nothing_heavy(process: Any) -> None:
    """Help and `import fusekit` must take less than 0.3 s; what is not imported takes no time."""
    code = (
        "import sys, fusekit\n"
        "from fusekit.cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = {'jax', 'numpy', 'pydantic', 'rich', 'ruamel', 'flax', 'fusekit_modules'}\n"
        "print(sorted(heavy & {*sys.modules}), file=sys.stderr)\n"
    )
    ran = process(code=code)
    assert ran.err.strip() == "[]"
    for command in ("check", "show", "train", "evaluate", "predict", "test-component"):
        assert f"  {command}" in ran.out
    assert "...\n" not in ran.out.partition("Commands:")[2]  # every line fits


def test_a_wrong_config_is_a_message_with_its_place_and_status_2(
    process: Any, tmp_path: Path
) -> None:
    config = tmp_path / "broken.yaml"
    config.write_text(BROKEN, encoding="utf-8")
    ran = process("check", config)
    assert ran.status == 2
    assert ran.out == ""
    assert f"{config}:3:26: modalities.left.widht" in ran.err
    assert "did you mean: width" in ran.err
    assert "Traceback" not in ran.err


def test_traceback_on_request(process: Any) -> None:
    ran = process("check", "no_such_file.yaml", "--traceback")
    assert ran.status == 1
    assert "Traceback" in ran.err
    assert "ConfigError" in ran.err


def test_usage_errors_are_status_2(fusekit: Any) -> None:
    for arguments in (("no-such-command",), ("check",), ("check", "a.yaml", "--no-such-option")):
        ran = fusekit(*arguments)
        assert ran.status == 2
        assert "Usage" in ran.err


def test_version(fusekit: Any) -> None:
    import fusekit as package

    assert fusekit("--version").out == f"fusekit {package.__version__}\n"


def test_wiring_errors_have_their_place(fusekit: Any, tiny: Path) -> None:
    ran = fusekit("check", tiny, "--set", "heads.class.input=joind")
    assert ran.status == 2
    assert "heads.class.input: nothing is called joind" in ran.err
    assert "did you mean: joint" in ran.err


def test_set_is_applied(fusekit: Any, tiny: Path) -> None:
    assert fusekit("check", tiny).out == (
        "OK tiny: 3 modalities, 4 nodes, 0 layers, 106 parameters\n"
    )
    wider = fusekit("check", tiny, "--set", "encoders.left.width=9", "--set", "meta.name=other")
    assert wider.out == "OK other: 3 modalities, 4 nodes, 0 layers, 113 parameters\n"


def test_what_the_system_refuses_is_a_message_with_the_file(fusekit: Any, monkeypatch: Any) -> None:
    """A full disk under any command; `errno` 28."""

    def full() -> None:
        raise OSError(28, "No space left on device", "runs/a/config.yaml")

    monkeypatch.setattr("fusekit.cli.list.command", full)
    ran = fusekit("list")
    assert ran.status == 2
    assert ran.err == "runs/a/config.yaml: No space left on device\n"


def test_notes_are_told() -> None:
    from fusekit.cli.main import told
    from fusekit.errors import DataError

    error = DataError("these 15 bytes are no png")
    error.add_note("in a.png")
    error.add_note("-----\nFor simplicity, Grain has removed its internal frames")
    assert told(error) == "these 15 bytes are no png\n    in a.png"


def test_a_component_that_cannot_be_imported(fusekit: Any, tmp_path: Path) -> None:
    for name, text, message in (
        ("half", "def f(:\n", "SyntaxError: invalid syntax (half.py, line 1)"),
        ("lacks", "import os\nimport no_such_module\n", "no_such_module' (line 2)"),
        ("wrong", "x = {}\n\nx['a']\n", "KeyError: 'a' (line 3)"),
    ):
        file = tmp_path / f"{name}.py"
        file.write_text(text, encoding="utf-8")
        ran = fusekit("test-component", file)
        assert ran.status == 2, ran
        assert f"{file} cannot be imported: " in ran.err
        assert message in ran.err

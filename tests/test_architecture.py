"""fusekit knows slots, never a concrete component; nothing reads outside the repository."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "fusekit").rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def test_the_compiler_never_imports_the_standard_components():
    for path in CORE:
        assert not [n for n in imported(path) if n.split(".")[0] == "fusekit_modules"], path


def test_nothing_unpickles_or_evaluates():
    banned = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
    for path in [*CORE, *(ROOT / "modules").rglob("*.py")]:
        assert not banned & {name.split(".")[0] for name in imported(path)}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"eval", "exec"}, path

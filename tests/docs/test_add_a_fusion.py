"""The package that docs/guide/add-a-fusion.md builds: written, registered, used, in processes of
its own, so that the registry of the tests stays as it is."""

import ast
import os
import subprocess
import sys
import tomllib

import pytest

from tests.docs.pages import ROOT, blocks

FILES = {b.file: b.text for b in blocks(ROOT / "docs" / "guide" / "add-a-fusion.md") if b.file}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The files of the page, and beside them what an installer would note of entry points."""
    folder = tmp_path_factory.mktemp("acme")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    noted = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    noted.mkdir()
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (noted / "METADATA").write_text(about, encoding="utf-8")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (noted / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(folder, *words):
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "modules"), str(ROOT / "tpu")])
    environment = {**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_component_has_at_most_thirty_statements():
    tree = ast.parse(FILES["acme_fusion/maximum.py"])
    texts = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    assert len(statements) - len(texts) <= 30


def test_its_config_is_checked(package):
    done = run(package, "-m", "fusekit", "check", "maximum.yaml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OK maximum")


def test_it_passes_the_conformance_suite(package):
    done = run(package, "-m", "fusekit", "test-component", "maximum")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert "fusion/maximum" in done.stdout


def test_its_own_test_passes(package):
    done = run(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_maximum.py")
    assert done.returncode == 0, done.stdout + done.stderr

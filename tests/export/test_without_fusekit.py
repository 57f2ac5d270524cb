"""An export in a process that has jax and NumPy, where to import fusekit is an error.

It runs what docs/guide/export.md shows, and its answers are compared with those of the live model.
"""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.docs.pages import ROOT, blocks
from tests.export.conftest import Toy, arrays_of

GUIDE = ROOT / "docs" / "guide" / "export.md"
BLOCKER = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not to be had here")


BLOCKED = {"fusekit", "fusekit_modules", "flax", "optax", "orbax", "pydantic", "ruamel"}
sys.meta_path.insert(0, Blocker())
"""
ASK = """
import jax
jax.config.update("jax_default_matmul_precision", "highest")
answered = {}
for name in sys.argv[1:]:
    inputs = dict(np.load(f"{name}.npz"))
    if "spread" in name:
        mesh = jax.make_mesh((jax.device_count(),), ("batch",))
        where = jax.NamedSharding(mesh, jax.P("batch"))
        inputs = jax.device_put(inputs, where)
    outputs = answer(parameters, inputs)
    if "spread" in name:
        assert len(outputs["kind"].sharding.device_set) == jax.device_count() == 4
    np.savez(f"{name}.out.npz", **outputs)
assert not BLOCKED & {module.split(".")[0] for module in sys.modules}
"""


def recipe() -> str:
    """The block of the page that reads an export."""
    (found,) = (b.text for b in blocks(GUIDE) if "safetensors" in b.text and b.language == "python")
    return found


@pytest.fixture(scope="module")
def answers(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By name, what went in and what came out of another process."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "model").symlink_to(toy.folder, target_is_directory=True)
    given = {
        "every": arrays_of(4),
        "one": arrays_of(1, seed=3),
        "spread": arrays_of(4, seed=5),
    }
    given["garbage"] = soiled(given["every"])
    for name, arrays in given.items():
        np.savez(folder / f"{name}.npz", **arrays)
    flags = "--xla_force_host_platform_device_count=4"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-I", "-c", BLOCKER + recipe() + ASK, *given],
        cwd=folder,
        env={**kept, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name: (given[name], dict(np.load(folder / f"{name}.out.npz"))) for name in given}


def soiled(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with garbage wherever nothing is."""
    found = {name: array.copy() for name, array in arrays.items()}
    found["image"][~arrays["image.presence"]] = np.nan
    found["text"][~arrays["text.presence"]] = 2_000_000_000
    found["text"][~arrays["text.mask"]] = -7
    found["record"][~arrays["record.mask"]] = np.inf
    assert any(not np.array_equal(found[name], arrays[name]) for name in arrays)
    return found


@pytest.mark.parametrize("name", ["every", "one", "spread"])
def test_answers_are_those_of_the_live_model(toy: Toy, answers: Any, name: str):
    """For every subset of optional inputs, any number of rows, on one device or several."""
    import jax

    arrays, found = answers[name]
    if name == "every":
        patterns = {
            (bool(i), bool(t))
            for i, t in zip(arrays["image.presence"], arrays["text.presence"], strict=True)
        }
        assert len(patterns) == 4
    with jax.default_matmul_precision("highest"):
        live = toy.live(arrays)
    assert set(found) == set(live) == {"kind", "words", "words.presence"}
    for key, value in live.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_allclose(
            found[key].astype("float64"), value.astype("float64"), rtol=0, atol=1e-6
        )
    assert np.ptp(live["kind"], axis=0).min() > 1e-2 or len(live["kind"]) == 1


def test_contents_of_what_is_absent_do_not_matter(answers: Any):
    """Bit for bit: NaN, infinity and codes that are none."""
    _, clean = answers["every"]
    _, soiled_out = answers["garbage"]
    for key, value in clean.items():
        np.testing.assert_array_equal(soiled_out[key], value)


def test_the_blocker_blocks():
    """So that the tests above can fail."""
    code = BLOCKER + "import fusekit"
    path = os.pathsep.join([str(ROOT), str(ROOT / "modules")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "fusekit is not to be had here" in done.stderr


def test_the_recipe_is_short():
    lines = [line for line in recipe().splitlines() if line.strip()]
    assert len(lines) <= 20
    assert not any("fusekit" in line for line in lines)

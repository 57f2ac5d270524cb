"""One small model of every kind of input, exported once."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusekit
from fusekit.export import Manifest, export
from fusekit.program import Program
from fusekit.train.shapes import needed

SECTIONS: dict[str, Any] = {
    "meta": {"name": "toy"},
    "modalities": {
        "image": {"type": "image", "shape": [4, 4, 1], "optional": True},
        "text": {"type": "tokens", "vocab": 11, "length": 5, "optional": True},
        "record": {"type": "tabular", "numeric": ["age"], "categorical": {"ward": 3}},
        "label": {"type": "label", "classes": ["cat", "dog"]},
    },
    "encoders": {
        "image": {"type": "conv", "widths": [4], "norm": "batch"},
        "text": {"type": "transformer", "depth": 1, "width": 8, "heads": 2},
        "record": {"type": "ft_transformer", "depth": 1, "width": 8, "heads": 2},
    },
    "fusion": {"joint": {"type": "concat", "inputs": ["image.mean", "text.mean", "record.mean"]}},
    "heads": {
        "kind": {"type": "classifier", "input": "joint", "classes": ["cat", "dog"]},
        "words": {"type": "projection", "input": "text.mean", "width": 4},
    },
    "parts": {"teacher": {"of": ["words"], "weights": {"type": "ema", "decay": 0.9}}},
    "losses": {
        "kind": {"type": "cross_entropy", "prediction": "kind", "target": "batch.label"},
        "align": {"type": "cosine", "prediction": "words", "target": "teacher.words"},
    },
}
OPTIONAL = ("image", "text")


@dataclass(frozen=True)
class Toy:
    """The model, live and exported."""

    program: Program
    state: Any
    folder: Path
    manifest: Manifest

    def live(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the program answers, by the names that the export has."""
        batch = {
            name: fusekit.Stream(
                arrays[name],  # pyright: ignore
                arrays.get(f"{name}.mask"),  # pyright: ignore
                arrays.get(f"{name}.presence"),  # pyright: ignore
            )
            for name in ("image", "text", "record")
        }
        found = {}
        for name, stream in self.program.predict(self.state, batch).items():
            found[name] = np.asarray(stream.values)
            if stream.presence is not None:
                found[f"{name}.presence"] = np.asarray(stream.presence)
        return found


def arrays_of(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random rows, the optional inputs absent in every combination, one after another."""
    rng = np.random.default_rng(seed)
    patterns = np.array(list(product([True, False], repeat=len(OPTIONAL))))
    present = patterns[np.arange(rows) % len(patterns)]
    mask = np.arange(5) < rng.integers(1, 6, rows)[:, None]
    record = np.stack([rng.normal(size=rows), rng.integers(0, 3, rows)], axis=1)
    return {
        "image": rng.normal(size=(rows, 4, 4, 1)).astype("float32"),
        "image.presence": present[:, 0],
        "text": rng.integers(0, 11, (rows, 5)).astype("int32"),
        "text.mask": mask,
        "text.presence": present[:, 1],
        "record": record.astype("float32"),
        "record.mask": rng.random((rows, 2)) < 0.7,
    }


def random_state(program: Program) -> Any:
    """A state whose parameters and statistics are as unlike their first values as after training;
    made without compiling what makes those."""
    rng = np.random.default_rng(1)
    flat: dict[str, Any] = {}
    for path, (shape, dtype) in needed(program).items():
        flat[path] = np.zeros(shape, dtype)
        if dtype == "float32":
            flat[path] = 0.3 * rng.normal(size=shape).astype(dtype)
        if path.endswith((".scale", ".variance")):
            flat[path] = 1 + np.abs(flat[path])
    return program.restored(flat)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    program = fusekit.compile(SECTIONS | {"version": 1})
    state = random_state(program)
    folder = tmp_path_factory.mktemp("export") / "toy"
    return Toy(program, state, folder, export(program, state, folder))

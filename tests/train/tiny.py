"""One small experiment: dropout, an optional modality that is drawn away, a stack of layers."""

import contextlib

import jax
import numpy as np

import fusekit
import fusekit_modules  # noqa: F401 - registers the components
from fusekit.data.pipeline import Pipeline
from fusekit.program import Program

STEPS = 8


def experiment(train=None, width=4, depth=2, **changes):
    sections = {
        "modalities": {
            "sound": {"type": "features", "width": 3, "length": 4},
            "table": {"type": "features", "width": 3, "optional": True},
            "label": {"type": "label", "classes": 3},
        },
        "encoders": {
            "sound": {
                "type": "transformer",
                "width": width,
                "depth": depth,
                "heads": 2,
                "dropout": 0.1,
            },
            "table": {"type": "mlp", "width": 4, "dropout": 0.2},
        },
        "fusion": {"joint": {"type": "concat", "inputs": ["sound.mean", "table"]}},
        "heads": {"out": {"type": "classifier", "input": "joint", "classes": 3}},
        "losses": {
            "fit": {"type": "cross_entropy", "prediction": "out", "target": "batch.label"},
            "sure": {
                "type": "cross_entropy",
                "prediction": "out",
                "target": "batch.label",
                "weight": 0.25,
            },
        },
        "metrics": {
            "accuracy": {"type": "accuracy", "prediction": "out", "target": "batch.label"},
            "gap": {"type": "calibration_error", "prediction": "out", "target": "batch.label"},
        },
        "data": {
            "made": {
                "type": "synthetic",
                "sizes": {"train": 20, "validation": 7, "test": 6},
                "missing": {"table": {"rate": 0.4}},
            }
        },
        "train": {
            "batch": 4,
            "steps": STEPS,
            "learning_rate": 0.01,
            "seed": 3,
            "evaluate_every": 3,
            "checkpoint_every": 3,
            **(train or {}),
        },
        **changes,
    }
    return fusekit.experiment(**sections)


def program(declared=None, **options) -> Program:
    return fusekit.compile(declared or experiment(), **{"steps": STEPS, **options})


def pipeline(split, declared=None) -> Pipeline:
    declared = declared or experiment()
    return Pipeline(
        declared.data,
        declared.modalities,
        batch=declared.train.batch,
        seed=declared.train.seed,
        split=split,
        training=split == "train",
    )


def batches(count):
    """The first few training batches, as `Program.step` takes them."""
    with contextlib.closing(pipeline("train")) as opened:
        return [next(opened).streams for _ in range(count)]


def flat(program, state):
    """The state on the host by canonical path; a copy."""
    return {path: np.array(array) for path, array in jax.device_get(program.flat(state)).items()}


def same(one, other):
    """Whether two flat states agree bit for bit."""
    return one.keys() == other.keys() and all(
        a.dtype == other[p].dtype
        and a.shape == other[p].shape
        and a.tobytes() == other[p].tobytes()
        for p, a in one.items()
    )

"""Two small modalities that each tell half of the label."""

import fusekit
import fusekit_modules  # noqa: F401 - registers the components


def experiment(joint=None, train=None, **changes):
    joint = {"type": "concat", "inputs": ["left", "right"], **(joint or {})}
    sections = {
        "modalities": {
            "left": {"type": "features", "width": 3},
            "right": {"type": "features", "width": 2},
            "label": {"type": "label", "classes": 3},
        },
        "encoders": {
            "left": {"type": "mlp", "width": 8},
            "right": {"type": "mlp", "width": 8},
        },
        "fusion": {"joint": joint},
        "heads": {"out": {"type": "classifier", "input": "joint", "classes": 3}},
        "losses": {"fit": {"type": "cross_entropy", "prediction": "out", "target": "batch.label"}},
        "metrics": {"accuracy": {"type": "accuracy", "prediction": "out", "target": "batch.label"}},
        "data": {
            "made": {"type": "synthetic", "sizes": {"train": 32, "validation": 12, "test": 18}}
        },
        "train": {"batch": 8, "steps": 6, "learning_rate": 0.01, "seed": 3, **(train or {})},
        **changes,
    }
    return fusekit.experiment(**sections)

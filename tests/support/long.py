"""Long early-fusion models, for meshes that split tokens."""

import numpy as np

import fusekit
from fusekit.stream import Stream


def early(length, *, each=None, trunk=None, fusion=None, batch=4, width=16, heads=2, **sections):
    """Two modalities of half the length, the second optional, joined for one trunk; `each` is what
    encodes them before, if it is more than an embedding."""
    tokens = {"type": "tokens", "vocab": 50, "length": length // 2}
    embed = {"type": "embed", "width": width, **(each or {})}
    trunk = {"type": "transformer", "depth": 2, "heads": heads, "input": "both", **(trunk or {})}
    return fusekit.experiment(
        modalities={
            "a": tokens,
            "b": {**tokens, "optional": True},
            "label": {"type": "label", "classes": 4},
        },
        encoders={"a": embed, "b": embed, "trunk": trunk},
        fusion={
            "both": {"type": "concat", "axis": "sequence", "inputs": ["a", "b"]},
            **(fusion or {}),
        },
        heads={"label": {"type": "classifier", "input": "trunk.mean", "classes": 4}},
        losses={"label": {"type": "cross_entropy", "prediction": "label", "target": "batch.label"}},
        data={"made": {"type": "synthetic"}},
        **{"train": {"batch": batch, "steps": 3}, **sections},
    )


def rows(experiment, batch=4):
    """A batch in which every second row lacks `b`."""
    rng = np.random.default_rng(0)
    length = experiment.modalities["a"].length
    codes = [rng.integers(0, 50, (batch, length)).astype("int32") for _ in range(2)]
    present = np.arange(batch) % 2 == 0
    label = rng.integers(0, 4, (batch,)).astype("int32")
    return {"a": codes[0], "b": Stream(codes[1], presence=present), "label": label}

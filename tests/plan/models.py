"""Small models with runs of equal layers, for planning."""

import fusekit

LAYER = {"type": "vit", "patch": [4, 4], "width": 16, "heads": 2, "readout": 1}


def bottleneck(depth=6, batch=16, mesh=None, **train):
    """Two stacks, in lockstep from layer 3 on."""
    return fusekit.experiment(
        modalities={
            "image": {"type": "image", "shape": [8, 8, 3]},
            "audio": {"type": "spectrogram", "shape": [8, 8], "optional": True},
            "label": {"type": "label", "classes": 4},
        },
        encoders={name: {**LAYER, "depth": depth} for name in ("image", "audio")},
        fusion={
            "exchange": {"type": "bottleneck", "into": ["image@3..", "audio@3.."], "tokens": 2},
            "joint": {"type": "concat", "inputs": ["image.readout", "audio.readout"]},
        },
        heads={"label": {"type": "classifier", "input": "joint", "classes": 4}},
        losses={"label": {"type": "cross_entropy", "prediction": "label", "target": "batch.label"}},
        data={"made": {"type": "synthetic"}},
        train={"batch": batch, "steps": 3, **train},
        mesh=mesh or {},
    )


def single(depth=3, batch=16, **changes):
    """One stack."""
    sections = {
        "modalities": {
            "image": {"type": "image", "shape": [8, 8, 3]},
            "label": {"type": "label", "classes": 4},
        },
        "encoders": {"image": {**LAYER, "depth": depth}},
        "heads": {"label": {"type": "classifier", "input": "image.readout", "classes": 4}},
        "losses": {
            "label": {"type": "cross_entropy", "prediction": "label", "target": "batch.label"}
        },
        "data": {"made": {"type": "synthetic"}},
        "train": {"batch": batch, "steps": 3},
    }
    return fusekit.experiment(**{**sections, **changes})

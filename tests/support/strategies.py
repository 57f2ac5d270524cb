"""One small experiment for each way to fuse, with real components, and batches for them."""

from typing import Any

import numpy as np

import fusekit
from fusekit.graph import Graph
from fusekit.stream import Stream

WIDTH = 8
CLASSES = 3
STACK = {"type": "transformer", "depth": 2, "width": WIDTH, "heads": 2, "mlp_ratio": 1}
DROPPING = {**STACK, "dropout": 0.1}
EMBED = {"type": "mlp", "width": WIDTH, "hidden": WIDTH, "dropout": 0.1}
VECTORS = {"a": {"type": "features", "width": 4}, "b": {"type": "features", "width": 3}}
SEQUENCES = {
    "a": {"type": "features", "width": WIDTH, "length": 3},
    "b": {"type": "features", "width": WIDTH, "length": 2},
}
SGD = {"optimizer": {"type": "sgd", "momentum": 0.9}, "learning_rate": 0.1, "steps": 10}


def classifiers(**inputs: str) -> dict[str, Any]:
    return {
        name: {"type": "classifier", "input": reference, "classes": CLASSES}
        for name, reference in inputs.items()
    }


def declared(
    modalities: dict,
    encoders: dict,
    fusion: dict,
    heads: dict,
    losses: dict | None = None,
    answers: dict | None = None,
) -> fusekit.Experiment:
    """An experiment with optional modalities and a label that every head predicts, or those of
    `answers` alone."""
    answers = heads if answers is None else answers
    return fusekit.experiment(
        modalities={
            **{name: {**fields, "optional": True} for name, fields in modalities.items()},
            "label": {"type": "label", "classes": CLASSES},
        },
        encoders=encoders,
        fusion=fusion,
        heads=heads,
        losses={
            **{
                name: {"type": "cross_entropy", "prediction": name, "target": "batch.label"}
                for name in answers
            },
            **(losses or {}),
        },
        metrics={
            f"{name}_right": {"type": "accuracy", "prediction": name, "target": "batch.label"}
            for name in answers
        },
        train=SGD,
    )


def _vectors() -> fusekit.Experiment:
    """Decisions and vectors: fused vectors do not share a loss, so that each has its own."""
    kinds = {
        "concat": {"type": "concat", "absent": "learned"},
        "tensor": {"type": "low_rank_tensor", "rank": 2},
        "gate": {"type": "expert_gate", "hidden": 4},
        "chain": {"type": "sequential", "hidden": [4]},
    }
    heads = classifiers(alone_a="a", alone_b="b", **{f"of_{name}": name for name in kinds})
    late = {"type": "late", "inputs": ["alone_a", "alone_b"]}
    fusion = {name: {**fields, "inputs": ["a", "b"]} for name, fields in kinds.items()}
    change = {
        "change": {
            "type": "squared_error",
            "prediction": "chain.after",
            "target": "chain.before",
            "weight": 0.1,
        }
    }
    late_loss = {"vote": {"type": "cross_entropy", "prediction": "late", "target": "batch.label"}}
    return declared(
        VECTORS, {"a": EMBED, "b": EMBED}, {**fusion, "late": late}, heads, change | late_loss
    )


def _decisions() -> fusekit.Experiment:
    """The other fusions of vectors, each under a loss of its own."""
    kinds = {
        "sum": {"type": "sum"},
        "gated": {"type": "gated", "width": 4},
        "weighted": {"type": "attention_weighted"},
        "set": {"type": "set_attention", "heads": 2},
        "outer": {"type": "tensor"},
        "bilinear": {"type": "bilinear", "width": 4, "rank": 2},
        "multiplied": {"type": "multiplicative", "width": 4},
        "product": {"type": "product_of_experts"},
    }
    fusion = {name: {**fields, "inputs": ["a", "b"]} for name, fields in kinds.items()}
    heads = classifiers(**{f"of_{name}": name for name in kinds})
    return declared(VECTORS, {"a": EMBED, "b": EMBED}, fusion, heads)


def _encoders() -> fusekit.Experiment:
    """Every other encoder, on the kind of data that it is for, and early fusion of two."""
    size = {"width": WIDTH}
    modalities = {
        "image": {"type": "image", "shape": [4, 4, 1]},
        "photo": {"type": "image", "shape": [4, 4, 2]},
        "sound": {"type": "waveform", "length": 8},
        "series": {"type": "time_series", "length": 4, "channels": 2},
        "table": {"type": "tabular", "numeric": ["x", "y"], "categorical": {"z": 3}},
        "video": {"type": "video", "shape": [2, 4, 4, 1]},
    }
    encoders = {
        "image": {"type": "resnet", **size, "stages": [1], "norm": "group", "groups": 2},
        "photo": {"type": "conv", "widths": [WIDTH], "norm": "group", "groups": 2},
        "sound": {"type": "conv1d", **size},
        "series": {"type": "recurrent", **size},
        "table": {**DROPPING, "type": "ft_transformer", "depth": 1},
        "video": {"type": "vit", "patch": [2, 2, 2], **size, "depth": 1, "heads": 2},
    }
    early = {"type": "early", "inputs": ["table@input", "video@input"], "depth": 1, "heads": 2}
    heads = classifiers(
        **{f"of_{name}": f"{name}.mean" for name in ("image", "photo", "sound", "series", "video")},
        of_table="table.mean",
        of_both="both",
    )
    return declared(modalities, encoders, {"both": early}, heads)


def _tokens() -> fusekit.Experiment:
    """A trunk over tokens of three kinds, which are embedded and nothing else."""
    modalities = {
        "image": {"type": "image", "shape": [4, 4, 1]},
        "text": {"type": "tokens", "vocab": 5, "length": 3},
        "series": {"type": "time_series", "length": 4, "channels": 2},
    }
    encoders = {
        "image": {"type": "patches", "patch": [2, 2], "width": WIDTH},
        "text": {"type": "embed", "width": WIDTH},
        "series": {"type": "projection", "width": WIDTH},
        "trunk": {**DROPPING, "input": "joined"},
    }
    joined = {"type": "concat", "axis": "sequence", "inputs": ["image", "text", "series"]}
    return declared(modalities, encoders, {"joined": joined}, classifiers(y="trunk.mean"))


def _contrasts() -> fusekit.Experiment:
    """Losses in which every sample meets every other, wherever it lies, and transport of tokens."""
    modalities = {**VECTORS, "c": {"type": "features", "width": 5}, "d": SEQUENCES["a"]}
    heads = {
        f"{name}_z": {"type": "projection", "input": name, "width": 6} for name in ("a", "b", "c")
    }
    pair, three = ["a_z", "b_z"], ["a_z", "b_z", "c_z"]
    losses = {
        "clip": {"type": "info_nce", "inputs": pair},
        "pairs": {"type": "siglip", "inputs": pair},
        "product": {"type": "symile", "inputs": three},
        "volume": {"type": "gram", "inputs": three},
        "kernel": {"type": "mmd", "inputs": pair},
        "carried": {"type": "optimal_transport", "inputs": ["d", "read"]},
    }
    encoders = {
        **dict.fromkeys(("a", "b", "c"), EMBED),
        "d": {"type": "projection", "width": WIDTH},
        "read": {**DROPPING, "input": "d"},
    }
    answer = classifiers(y="read.mean")
    return declared(modalities, encoders, {}, {**heads, **answer}, losses, answers=answer)


def _pairwise() -> fusekit.Experiment:
    pair = {"type": "pairwise_attention", "width": 4, "heads": 2, "depth": 1, "self_depth": 1}
    fusion = {"pair": {**pair, "dropout": 0.1, "inputs": ["batch.a", "batch.b"]}}
    return declared(SEQUENCES, {}, fusion, classifiers(y="pair"))


def _bottleneck() -> fusekit.Experiment:
    """An image by a vision transformer and a text in lockstep."""
    modalities = {
        "a": {"type": "image", "shape": [4, 4, 1]},
        "b": {"type": "tokens", "vocab": 5, "length": 3},
    }
    image = {k: v for k, v in DROPPING.items() if k != "type"}
    encoders = {
        "a": {"type": "vit", "patch": [2, 2], "readout": 1, **image},
        "b": {**DROPPING, "readout": 1},
    }
    meet = {"type": "bottleneck", "into": ["a@..", "b@.."], "tokens": 2}
    return declared(modalities, encoders, {"meet": meet}, classifiers(y="a.readout", z="b.readout"))


def _crossed() -> fusekit.Experiment:
    """A stack over another's tokens, told of that one's end, and a third that reads it."""
    encoders = {"a": DROPPING, "b": DROPPING, "top": {**DROPPING, "input": "a@0"}}
    fusion = {
        "lift": {"type": "bridge", "inputs": ["a"], "into": "top@.."},
        "meet": {"type": "cross_attention", "heads": 2, "hidden": 4, "into": ["top@..", "b@.."]},
    }
    return declared(SEQUENCES, encoders, fusion, classifiers(y="top.mean", z="b.mean"))


def _trunk(operator: dict, losses: dict | None = None) -> fusekit.Experiment:
    """An operator in a trunk over the tokens of both modalities."""
    joined = {"type": "concat", "axis": "sequence", "inputs": ["batch.a", "batch.b"]}
    encoders = {"trunk": {**DROPPING, "input": "joined"}}
    fusion = {"joined": joined, "meet": {**operator, "into": "trunk@.."}}
    return declared(SEQUENCES, encoders, fusion, classifiers(y="trunk.mean"), losses)


def _experts() -> fusekit.Experiment:
    losses = {
        "balance": {"type": "auxiliary", "input": "meet.balance", "weight": 1},
        "z": {"type": "auxiliary", "input": "meet.z", "weight": 0.1},
    }
    return _trunk({"type": "experts", "experts": 4, "top": 2, "hidden": 4}, losses)


def _modality_experts() -> fusekit.Experiment:
    return _trunk({"type": "modality_experts", "hidden": 4, "labels": ["a", "b"]})


EXPERIMENTS = {
    "vectors": _vectors,
    "decisions": _decisions,
    "encoders": _encoders,
    "tokens": _tokens,
    "contrasts": _contrasts,
    "pairwise_attention": _pairwise,
    "bottleneck": _bottleneck,
    "crossed": _crossed,
    "experts": _experts,
    "modality_experts": _modality_experts,
}
"""`vectors` holds concat, low_rank_tensor, expert_gate, sequential and late, each under a loss."""


def graph(name: str) -> Graph:
    return fusekit.resolve(EXPERIMENTS[name]())


def batch(
    graph: Graph, seed: int, *, garbage: float = 0.0, present: float = 0.7, size: int = 16
) -> dict[str, Stream]:
    """A batch with padding and absences; what stands there is `garbage` (for codes: 1)."""
    r = np.random.default_rng(seed)
    found: dict[str, Stream] = {}
    for name, spec in graph.experiment.modalities.items():
        signature = spec.signature()
        shape = (size, *signature.shape)
        if signature.dtype == "int":
            values = r.integers(0, signature.classes or 2, shape).astype("int32")
            fill = int(garbage != 0)
        else:
            values, fill = r.normal(size=shape).astype("float32"), garbage
            for field, count in enumerate(signature.cardinalities):
                if count:
                    values[:, field] = r.integers(0, count, size)
        mask = presence = None
        bad = np.zeros(shape, bool)
        if signature.padded:
            mask = np.arange(shape[1]) < r.integers(1, shape[1] + 1, (size, 1))
            bad |= ~mask.reshape(mask.shape + (1,) * (len(shape) - 2))
        if signature.optional:
            presence = r.random(size) < present
            bad |= ~presence.reshape((size,) + (1,) * (len(shape) - 1))
        found[name] = Stream(np.where(bad, np.asarray(fill, values.dtype), values), mask, presence)
    return found

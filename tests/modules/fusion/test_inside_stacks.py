"""Operators inside layers as configs declare them: what fits is resolved, what does not is told."""

import pytest

import fusekit
from fusekit.errors import ConfigError

STACK = {"depth": 3, "width": 8, "heads": 2}


def declared(operators, **fields):
    return fusekit.experiment(
        modalities={
            "image": {"type": "image", "shape": [8, 8, 3], "optional": True},
            "text": {"type": "tokens", "vocab": 20, "length": 6, "optional": True},
            "y": {"type": "label", "classes": 2},
        },
        encoders={
            "image": {"type": "vit", "patch": [4, 4], **STACK, **fields},
            "text": {"type": "transformer", "attend": "causal", **STACK},
        },
        fusion=operators,
        heads={
            name: {"type": "classifier", "input": f"{of}.mean", "classes": 2}
            for name, of in (("seen", "image"), ("said", "text"))
        },
        losses={
            name: {"type": "cross_entropy", "prediction": name, "target": "batch.y"}
            for name in ("seen", "said")
        },
    )


GENERATOR = {"type": "weight_generator", "rank": 2, "width": 8, "depth": 1, "absent": "skip"}
FITS = {
    "QA-ViT, gated": {"c": {"type": "cross_attention", "inputs": ["text"], "into": "image@1.."}},
    "QA-ViT, keys": {"c": {"type": "memory", "inputs": ["text@0"], "into": "image@1.."}},
    "VLoRA": {"c": {**GENERATOR, "inputs": ["image"], "into": "text@../2"}},
    "X-Fusion": {
        "clock": {"type": "modulation", "inputs": ["text@0.mean"], "into": "image@1.."},
        "c": {
            "type": "joint_attention",
            "into": ["text@1..", "image@1.."],
            "attend": {"text": "causal", "image": ["causal", "item"]},
        },
    },
    "Uni-MoE": {
        "lora": {"type": "lora", "into": "text@..", "targets": ["attention", "feed_forward"]},
        "more": {"type": "lora", "into": "text@1", "targets": ["attention.out"], "alpha": 2},
    },
    "PILL": {"c": {"type": "adapter", "into": "text@..", "labels": ["text"]}},
    "ADEM-VL": {"c": {"type": "parameter_free_attention", "inputs": ["image"], "into": "text@1.."}},
    "EE-MLLM": {"c": {"type": "mask", "into": "image@..", "attend": {"image": []}}},
}


@pytest.mark.parametrize("name", FITS)
def test_is_resolved(name):
    fusekit.resolve(declared(FITS[name]))


@pytest.mark.parametrize(
    ("operator", "message", "near"),
    [
        ({"type": "lora", "targets": ["atention"]}, "have no such projection", "attention"),
        ({"type": "mask", "attend": {"txt": "causal"}}, "no token that reads", "text"),
        ({"type": "mask", "attend": "casual"}, "no token that is read", "causal"),
        ({"type": "adapter", "labels": ["image"]}, "no token has this label", ""),
    ],
)
def test_is_refused(operator, message, near):
    with pytest.raises(ConfigError, match=message) as error:
        fusekit.resolve(declared({"c": {**operator, "into": "text@.."}}))
    assert near in str(error.value)


def test_a_stack_checks_the_labels_of_its_own_tokens():
    with pytest.raises(ConfigError, match="no token that reads has this label") as error:
        fusekit.resolve(declared({}, attend={"imge": "all"}))
    assert "did you mean: image" in str(error.value)

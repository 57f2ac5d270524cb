"""What a plan says of cheaper fusions."""

import fusekit
from fusekit.graph import resolve
from fusekit.plan.rivals import rivals
from fusekit.plan.traced import traced_step


def told(fusion, width, reads, length=6):
    names = ("a", "b")
    experiment = fusekit.experiment(
        modalities={
            **{n: {"type": "features", "width": width, "length": length} for n in names},
            "y": {"type": "label", "classes": 2},
        },
        encoders={
            n: {"type": "transformer", "depth": 2, "width": width, "heads": 2} for n in names
        },
        fusion={"joint": fusion},
        heads={"y": {"type": "classifier", "input": reads, "classes": 2}},
        losses={"y": {"type": "cross_entropy", "prediction": "y", "target": "batch.y"}},
    )
    return list(rivals(experiment, traced_step(resolve(experiment), 64).flops))


def low_rank(rank):
    return {"type": "low_rank_tensor", "inputs": ["a.mean", "b.mean"], "width": 64, "rank": rank}


def test_a_rank_too_high_is_dearer_than_the_exact_tensor():
    (line,) = told(low_rank(256), 4, "joint")
    assert line.startswith("fusion.joint: with type: tensor in place of low_rank_tensor a step has")
    assert told(low_rank(1), 32, "joint") == []


def test_full_attention_is_dearer_than_a_bottleneck():
    joint = {"type": "joint_attention", "into": ["a@0..", "b@0.."]}
    (line,) = told(joint, 8, "a.mean", length=64)
    assert "with type: bottleneck in place of joint_attention" in line

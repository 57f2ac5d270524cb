import json

from fusekit.config.union import read
from fusekit.data.split import Repeated
from fusekit_modules.sources.av_digits import AvDigitsSpec
from fusekit_modules.transforms.flip import FlipSpec
from fusekit_modules.transforms.noise import NoiseSpec


def test_transforms_are_read_by_type():
    declared = {
        "mirror": {"type": "flip", "modality": "image"},
        "hiss": {"type": "noise", "modality": "audio", "deviation": 0.2},
    }
    spec, problems = read("source", {"type": "av_digits", "transforms": declared})
    assert not problems
    assert isinstance(spec, AvDigitsSpec)
    assert list(spec.transforms) == ["mirror", "hiss"]
    assert spec.transforms == {
        "mirror": FlipSpec(modality="image"),
        "hiss": NoiseSpec(modality="audio", deviation=0.2),
    }
    assert AvDigitsSpec.model_validate(json.loads(spec.model_dump_json())) == spec


def test_problems_name_their_place():
    declared = {
        "mirror": {"type": "flip", "modality": "image", "rate": 2},
        "hiss": {"type": "noises", "modality": "audio"},
    }
    _, problems = read("source", {"type": "av_digits", "transforms": declared})
    assert [problem.path for problem in problems] == [
        ("transforms", "mirror", "rate"),
        ("transforms", "hiss", "type"),
    ]
    assert "noise" in problems[1].nearest


def test_a_protocol_is_changed_field_by_field():
    spec, problems = read("source", {"type": "mfeat", "split": {"repeat": 4}})
    assert not problems
    assert spec is not None
    assert spec.split == Repeated(repeat=4, rows="given", stratify="label")  # pyright: ignore
    _, problems = read("source", {"type": "mfeat", "split": {"repeet": 4}})
    assert problems[0].path[:1] == ("split",)

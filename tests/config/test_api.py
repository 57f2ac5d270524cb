"""The front door with what does not belong there: a clear error, never a traceback."""

from pathlib import Path
from typing import Any

import pytest

import fusekit
from fusekit.errors import ConfigError

MODEL: dict[str, Any] = {
    "modalities": {"image": {"type": "image", "shape": [8, 8, 1]}},
    "encoders": {"image": {"type": "mlp", "width": 4}},
    "heads": {"out": {"type": "classifier", "input": "image.mean", "classes": 3}},
    "losses": {"out": {"type": "cross_entropy", "prediction": "out", "target": 1}},
}


@pytest.mark.parametrize("front", [fusekit.compile, fusekit.resolve])
def test_what_is_no_experiment(front: Any):
    for value, found in (("mine.yaml", '"mine.yaml"'), (3, "3"), (None, "null"), ([], "[]")):
        with pytest.raises(ConfigError) as caught:
            front(value)
        assert str(caught.value) == (
            "an experiment is due\n"
            f"    found: {found}\n"
            "    expected: what fusekit.load or fusekit.experiment gives\n"
            "1 problem found"
        )
    with pytest.raises(ConfigError, match="there is no section `hedas`"):
        front({"hedas": {}})


def test_sections_are_as_good_as_an_experiment():
    assert (
        fusekit.resolve(MODEL).nodes.keys()
        == fusekit.resolve(fusekit.experiment(**MODEL)).nodes.keys()
    )


def test_a_path_with_a_null_character():
    with pytest.raises(ConfigError, match="there is no such file"):
        fusekit.load("a\0b")


def test_a_file_without_a_model_and_one_without_losses(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("version: 1\n")
    with pytest.raises(ConfigError) as caught:
        fusekit.load(file)
    assert str(caught.value) == (
        f"{file}:1:1: there are no modalities, so nothing can be modelled\n"
        "    expected: modalities: {…}\n"
        "1 problem found"
    )
    file.write_text(
        "version: 1\nmodalities: {image: {type: image, shape: [8, 8, 1], keep: true}}\n"
    )
    with pytest.warns(UserWarning, match="^there are no losses, so nothing can be trained$"):
        fusekit.load(file)


def test_a_misspelt_type_hides_no_misspelt_reference(tmp_path: Path):
    """And what only the misspelt entry uses is not told as unused."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "version: 1\n"
        "extends: fusekit:base/av_digits.yaml\n"
        "encoders: {spare: {type: mlp, input: batch.image, width: 8}}\n"
        "fusion: {joint: {type: concatt, inputs: [image.readout, audoi.readout, spare]}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        fusekit.load(file)
    assert [(problem.message, problem.nearest[:1]) for problem in caught.value.problems] == [
        ("there is no fusion of this type", ("concat",)),
        ("nothing is called audoi", ("audio",)),
    ]
    assert [str(p.position).removeprefix(f"{file}:") for p in caught.value.problems] == [
        "4:24",
        "4:57",
    ]

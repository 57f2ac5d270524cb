"""Experiments built in Python, their frozen specs, and the way back to YAML."""

import copy
import pickle
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError

from fusekit.config import Experiment, dump, dump_resolved, experiment, loads
from fusekit.config.frozen import FrozenDict
from fusekit.errors import ConfigError, Problem

SECTIONS: dict[str, Any] = {
    "modalities": {
        "image": {"type": "image", "shape": (8, 8, 3)},
        "text": {"type": "tokens", "vocab": 100, "optional": True},
        "label": {"type": "label", "classes": ("no", "1e-3", "cat: dog", "ünïcode", "a\nb")},
    },
    "encoders": {
        "image": {"type": "vit", "depth": 4, "width": 16, "mixer": {"type": "mlp", "width": 3}},
        "text": {"type": "vit", "width": 16},
    },
    "fusion": {
        "cross": {"type": "cross_attention", "inputs": {"a": "image"}, "into": "text@2.."},
        "both": {"type": "concat", "inputs": ["image.mean", "text@-1.mean"], "keep": True},
    },
    "heads": {"out": {"type": "classifier", "input": "text.mean", "classes": 5}},
    "losses": {"main": {"type": "cross_entropy", "prediction": "out", "target": 3}},
    "metrics": {"right": {"type": "accuracy", "prediction": "out", "target": "batch.label"}},
    "data": {
        "digits": {
            "type": "arrays",
            "file": "<<",
            "provides": {"image": "jpg"},
            "stages": [{"type": "flip"}, {"type": "crop", "size": 4}],
            "transforms": {"mirror": {"type": "flip", "rate": 0.25}},
            "split": {"type": "holdout", "fractions": {"train": 0.5, "test": 0.5}},
            "standardise": ["image"],
        }
    },
    "train": {
        "steps": 10,
        "learning_rate": 1e-05,
        "groups": {"slow": {"paths": ["text.*"], "learning_rate": 0.5}},
        "trainable": ["*.attention", "out"],
        "optimizer": {"type": "sgd", "momentum": 0.9},
        "select": "right",
    },
    "mesh": {"data": -1, "params": {"embed": None, "mlp": ["fsdp", "tensor"], "heads": "tensor"}},
    "meta": {"title": "null", "notes": "a: b # c\n\ttab", "deviations": ["- one", "", "~"]},
}

pytestmark = pytest.mark.usefixtures("fakes")


def found(**sections: Any) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        Experiment(**sections)
    return caught.value.problems


def test_round_trip():
    made = Experiment(**SECTIONS)
    for text in (dump(made), dump_resolved(made)):
        again = loads(text).experiment
        assert again == made
        assert dump(again) == dump(made)


def test_the_text_of_a_dump():
    made = Experiment(
        modalities={"image": SECTIONS["modalities"]["image"]},
        heads=SECTIONS["heads"],
        train={"epochs": 3, "clip": 1.5},
    )
    assert dump(made) == (
        "version: 1\n"
        "modalities:\n"
        "  image: {type: image, shape: [8, 8, 3]}\n"
        "heads:\n"
        "  out: {type: classifier, input: text.mean, classes: 5}\n"
        "train:\n"
        "  epochs: 3.0\n"
        "  clip: 1.5\n"
    )


def test_resolved_spells_every_default_out():
    text = dump_resolved(Experiment(encoders={"image": {"type": "mlp"}}))
    due = "image: {type: mlp, keep: false, width: 32, depth: 2, dropout: 0.0, activation: gelu}"
    assert due in text
    assert "optimizer: {type: adamw, b1: 0.9, weight_decay: 0.0}" in text
    assert "epochs: 10" in text


def test_null_is_a_choice_only_where_it_may_be_left_out():
    assert Experiment(mesh={"preset": None}).mesh.preset is None
    with pytest.raises(ConfigError, match=r"mesh\.layers: is not what is due here\s+found: null"):
        Experiment(mesh={"layers": None})


def test_spec_objects_are_as_good_as_dicts(fakes: ModuleType):
    made = Experiment(
        encoders={"image": fakes.MlpSpec(width=8)},
        train={"optimizer": fakes.SgdSpec(momentum=0.5)},
    )
    assert made == Experiment(
        encoders={"image": {"type": "mlp", "width": 8}},
        train={"optimizer": {"type": "sgd", "momentum": 0.5}},
    )
    assert made == Experiment.of(made.model_dump(exclude={"version"}))
    assert made.encoders["image"] == experiment(**dict(made)).encoders["image"]


def test_an_object_of_another_slot(fakes: ModuleType):
    (problem,) = found(encoders={"image": fakes.ConcatSpec()})
    assert problem.path == ("encoders", "image")
    assert problem.message == "a fusion stands where an encoder is due"


def test_every_problem_at_once_without_positions():
    problems = found(
        modalitys={},
        encoders={"batch": {"type": "mlp"}, "a b": {"type": "mlp", "width": "8"}},
        heads={"out": {"type": "classifier", "classes": 1}},
        train={"steps": 1, "epochs": 1, "optimizer": {"type": "adam"}},
    )
    assert {problem.path for problem in problems} == {
        ("modalitys",),
        ("encoders", "batch"),
        ("encoders", "a b"),
        ("encoders", "a b", "width"),
        ("heads", "out", "input"),
        ("heads", "out", "classes"),
        ("train", "optimizer", "type"),
    }
    assert all(problem.position is None for problem in problems)


def test_what_is_no_experiment():
    with pytest.raises(ConfigError, match="an experiment is a mapping"):
        Experiment.of([])  # pyright: ignore[reportArgumentType]
    assert found(extends="a.yaml")[0].message.startswith("`extends` belongs to files")
    assert found(self=1)[0].message == "there is no section `self`"
    assert found(encoders={3: {"type": "mlp"}})[0].message == "is not a name"
    assert found(train=3)[0].path == ("train",)


def test_it_is_frozen():
    made = Experiment(**SECTIONS)
    for holder, name in ((made, "train"), (made.train, "seed"), (made.encoders["image"], "depth")):
        with pytest.raises(ValidationError):
            setattr(holder, name, 1)
    train, mesh = made.train, made.mesh
    for mapping in (made.fusion, made.data, train.groups, mesh.params, Experiment().heads):
        for change in ("x", "cross"):
            with pytest.raises(TypeError, match="an experiment is frozen"):
                mapping[change] = None  # pyright: ignore
        with pytest.raises(TypeError, match="an experiment is frozen"):
            mapping.clear()


def test_frozen_sections_copy_and_pickle():
    made = Experiment(**SECTIONS)
    for again in (copy.deepcopy(made), made.model_copy()):
        assert again == made
        assert dump(again) == dump(made)
        assert type(again.fusion) is FrozenDict
    again = pickle.loads(pickle.dumps(made.mesh.params))
    assert (again, type(again)) == (made.mesh.params, FrozenDict)
    assert type({**made.fusion}) is dict
    assert type(made.fusion | {}) is dict


def test_defaults():
    train = Experiment().train
    assert (train.batch, train.steps, train.epochs, train.seed) == (64, None, 10, 0)
    assert (train.learning_rate, train.clip, train.compute) == (1e-3, None, "float32")
    assert (train.optimizer.type, train.schedule.type) == ("adamw", "constant")
    mesh = Experiment().mesh
    assert [mesh.data, mesh.fsdp, mesh.tensor, mesh.expert, mesh.sequence] == [1] * 5
    assert (mesh.layers, mesh.replicas) == ("auto", "auto")


def test_entries_come_in_the_order_of_the_sections():
    paths = [path for path, _ in Experiment(**SECTIONS).entries()]
    assert paths[:4] == [
        ("modalities", "image"),
        ("modalities", "text"),
        ("modalities", "label"),
        ("encoders", "image"),
    ]
    assert len(paths) == 11


def test_a_component_that_registers_late_is_known_at_once(fakes: ModuleType):
    from typing import Literal

    from fusekit.component import EncoderSpec
    from fusekit.config import registry

    with pytest.raises(ConfigError):
        Experiment(encoders={"a": {"type": "late"}})

    class LateSpec(EncoderSpec):
        type: Literal["late"] = "late"

    registry._registered["encoder"]["late"] = LateSpec
    assert isinstance(Experiment(encoders={"a": {"type": "late"}}).encoders["a"], LateSpec)


def test_nothing_heavy_is_imported_before_it_is_needed():
    code = "import sys, fusekit.config; print('jax' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

"""Specs built one by one in Python complain in the words in which a file would be told."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from fusekit.config import Experiment, loads
from fusekit.config.mesh import Mesh
from fusekit.config.train import Group, Train
from fusekit.data.missing import Missing
from fusekit.data.split import KFold
from fusekit.errors import ConfigError, Problem, SpecError

pytestmark = pytest.mark.usefixtures("fakes")


def found(build: Callable[[], Any]) -> tuple[Problem, ...]:
    with pytest.raises(SpecError) as caught:
        build()
    assert isinstance(caught.value, ConfigError)
    assert isinstance(caught.value, ValueError)
    return caught.value.problems


def test_the_whole_message(fakes: ModuleType):
    with pytest.raises(SpecError) as caught:
        fakes.ConcatSpec(inpts=["a"])
    assert str(caught.value) == (
        "inpts: fusion concat has no field `inpts`\n"
        "    expected: one of inputs, axis\n"
        "    did you mean: inputs\n"
        "1 problem found"
    )


@pytest.mark.parametrize(
    ("spec", "section", "fields"),
    [
        ("VitSpec", "encoders", {"width": 10, "heads": 3}),
        ("VitSpec", "encoders", {"width": "16", "dept": 2, "patch": [1], "keep": 1}),
        ("VitSpec", "encoders", {"mixer": {"type": "mpl"}, "depth": 0, "input": "a b"}),
        ("ClassifierSpec", "heads", {}),
        ("ClassifierSpec", "heads", {"classes": True, "input": 3}),
        ("ConcatSpec", "fusion", {"inputs": ["a", "b c"], "axis": "chanel"}),
        ("CrossAttentionSpec", "fusion", {"into": "text", "inputs": {"a b": "c"}}),
        (
            "ArraysSpec",
            "data",
            {
                "file": "",
                "split": {"type": "kfold", "folds": "3", "fol": 0},
                "missing": {"a": {"rate": 2}, "b": {"rate": 0.1, "givn": "c"}},
                "transforms": {"t": {"type": "crop", "siz": 3}},
                "stages": [{"type": "flip"}, {"type": "flip", "rate": 3}],
            },
        ),
    ],
)
def test_the_words_are_those_of_a_file(
    fakes: ModuleType, spec: str, section: str, fields: dict[str, Any]
):
    from fusekit.config.writer import emit

    component = getattr(fakes, spec)
    alone = found(lambda: component(**fields))
    entry = {"type": component.model_fields["type"].default, **fields}
    modalities = {name: {"type": "label", "classes": 3} for name in "ab"}
    with pytest.raises(ConfigError) as caught:
        loads(emit({"version": 1, "modalities": modalities, section: {"x": entry}}))
    placed = [problem.at(None) for problem in caught.value.problems if not _dangling(problem)]
    assert sorted(map(str, placed)) == sorted(str(one.under(section, "x")) for one in alone)
    assert all(problem.position is None for problem in alone)


def _dangling(problem: Problem) -> bool:
    return "is called" in problem.message or "is a modality" in problem.message


def test_sections_and_parts_of_specs():
    builds: list[tuple[Callable[[], Any], str]] = [
        (lambda: Train(bach=3), "bach: train has no field `bach`"),  # pyright: ignore
        (lambda: Train(steps=1, epochs=1), "`steps` and `epochs` are both given: give one"),
        (lambda: Train(optimizer={"type": "adamww"}), "optimizer.type: there is no optimizer"),  # pyright: ignore
        (lambda: Group(), "paths: `paths` is missing"),  # pyright: ignore
        (lambda: Mesh(expert=0), "expert: is out of range"),
        (lambda: Missing(rate=0.1, given="label"), "a mapping of rates and `given` go together"),
        (lambda: KFold(folds=3, fold=3), "fold 3 does not exist"),
    ]
    for build, words in builds:
        (problem,) = found(build)
        assert str(problem).startswith(words)


def test_nested_faults_are_told_together():
    """Pydantic has to gather them: a model within a model must not raise by itself."""
    problems = found(
        lambda: Train(
            batch=0,
            groups={"a": {"path": ["x"]}, "b": {"paths": ["x"], "learning_rate": -1}},  # pyright: ignore
            optimizer={"type": "sgd", "momentum": 2},  # pyright: ignore
        )
    )
    assert {".".join(map(str, problem.path)) for problem in problems} == {
        "batch",
        "groups.a.path",
        "groups.a.paths",
        "groups.b.learning_rate",
        "optimizer.momentum",
    }


def test_a_whole_experiment_tells_everything_at_once():
    with pytest.raises(ConfigError) as caught:
        Experiment(
            encoders={"a": {"type": "mlp", "wdth": 3}, "b": {"type": "vit", "width": 10}},
            data={"d": {"type": "arrays", "split": {"type": "kfold", "fold": 9}}},
            train={"groups": {"g": {"pths": []}}, "batch": "3"},
        )
    assert {".".join(map(str, problem.path)) for problem in caught.value.problems} == {
        "encoders.a.wdth",
        "encoders.b",
        "data.d.file",
        "data.d.split",
        "train.groups.g.pths",
        "train.groups.g.paths",
        "train.batch",
    }


def test_what_is_right_is_built(fakes: ModuleType):
    assert fakes.ConcatSpec(inputs=["a"]) == fakes.ConcatSpec.model_validate({"inputs": ["a"]})
    assert Missing(rate={3: 0.5}, given="label").rate == {"3": 0.5}  # pyright: ignore

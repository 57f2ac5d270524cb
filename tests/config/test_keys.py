"""Keys of mappings: plain integers are keys too, as text or as numbers, as the mapping has it."""

from typing import Any, Literal

import pytest
from pydantic import Field

from fusekit.component import MetricSpec
from fusekit.config import Experiment, dump, dump_resolved, json_schema, loads, registry
from fusekit.errors import ConfigError, Problem

pytestmark = pytest.mark.usefixtures("fakes")


class CostSpec(MetricSpec):
    """What each class costs, by its number or by its name."""

    type: Literal["cost"] = "cost"
    by_number: dict[int, float] = Field(default_factory=dict, description="by number")
    by_name: dict[str, float] = Field(default_factory=dict, description="by name")


@pytest.fixture(autouse=True)
def cost(fakes: Any) -> None:
    registry._registered["metric"]["cost"] = CostSpec


def read(entry: str) -> Any:
    return loads(f"version: 1\nmetrics:\n  m: {entry}\n").experiment.metrics["m"]


def found(entry: str) -> list[tuple[str, str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        read(entry)
    return [said(problem) for problem in caught.value.problems]


def said(problem: Problem) -> tuple[str, str, str, str]:
    return (
        ".".join(map(str, problem.path)),
        problem.message,
        problem.found,
        problem.expected,
    )


@pytest.mark.parametrize("key", ["3", '"3"', "'3'"])
def test_a_key_is_what_the_mapping_says(key: str):
    spec = read(f"{{type: cost, by_number: {{{key}: 0.5, -1: 2}}, by_name: {{{key}: 0.5}}}}")
    assert spec.by_number == {3: 0.5, -1: 2.0}
    assert spec.by_name == {"3": 0.5}


def test_a_value_under_an_integer():
    entry = "{type: cost, by_number: {3: x, y: 1}, by_name: {4: true}}"
    due = "is not what is due here"
    assert found(entry) == [
        ("metrics.m.by_number.3", due, '"x"', "a number"),
        ("metrics.m.by_number.y", due, '"y"', "an integer"),
        ("metrics.m.by_name.4", due, "true", "a number"),
    ]


def test_a_value_under_an_integer_in_python():
    with pytest.raises(ConfigError) as caught:
        Experiment(metrics={"m": {"type": "cost", "by_number": {3: "x"}, "by_name": {4: 1.0}}})
    assert [said(problem) for problem in caught.value.problems] == [
        ("metrics.m.by_number.3", "is not what is due here", '"x"', "a number"),
        ("metrics.m.by_name.4", "is not a name", '"4"', NAME),
    ]


NAME = "letters, digits and underscores, not beginning with a digit"


def test_the_way_back_to_yaml():
    made = Experiment(metrics={"m": {"type": "cost", "by_number": {3: 1}, "by_name": {"4": 1}}})
    for text in (dump(made), dump_resolved(made)):
        assert loads(text).experiment == made


@pytest.mark.parametrize("key", ["3", '"3"'])
@pytest.mark.parametrize("override", [False, True])
def test_rates_of_absence_by_class(key: str, override: bool):
    rate = f"{{{key}: 0.9}}"
    missing = "data.d.missing={image: {rate: %s, given: label}}"
    text = (
        "version: 1\nmodalities: {image: {type: image, shape: [8, 8, 1], optional: true}}\n"
        "data: {d: {type: arrays, file: x.npz, missing: {image: {rate: {0: 0.1}, given: label}}}}\n"
    )
    made = loads(text if override else text.replace("{0: 0.1}", rate), overrides=(
        [missing % rate] if override else []
    ))  # fmt: skip
    rates = made.experiment.data["d"].missing["image"].rate
    assert rates == ({"0": 0.1, "3": 0.9} if override else {"3": 0.9})


def test_names_and_fields_are_no_integers():
    assert found("{type: accuracy, prediction: a, target: b, 3: 4}")[-1][:3] == (
        "metrics.m.3",
        "metric accuracy has no field `3`",
        "",
    )
    with pytest.raises(ConfigError, match=r"encoders\.1: is not a name"):
        loads("version: 1\nencoders: {1: {type: mlp}}")


def test_the_schema_takes_both():
    """In JSON every key is text: editors look an integer key up as such."""
    fields = json_schema()["$defs"]["metric.cost"]["properties"]
    for field in ("by_number", "by_name"):
        assert fields[field]["additionalProperties"] == {"type": "number"}
        assert "propertyNames" not in fields[field]

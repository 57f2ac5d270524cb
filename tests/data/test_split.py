import numpy as np
import pytest

from fusekit.data.split import Told
from fusekit.errors import DataError, SpecError


def splits(spec) -> dict[str, set[int]]:
    return {name: set(spec.open(name).index.tolist()) for name in spec.splits()}


def check_disjoint(parts: dict[str, set[int]], count: int) -> None:
    assert sum(len(rows) for rows in parts.values()) == count
    assert set().union(*parts.values()) == set(range(count))


def test_as_given(fakes):
    parts = splits(fakes.Numbers(count=8))
    assert parts == {"train": {0, 1, 2, 4, 5, 6}, "test": {3, 7}}


def test_as_given_carves_validation_by_group(fakes):
    spec = fakes.Numbers(count=80, split={"validation": 0.25, "group": "person"})
    parts = splits(spec)
    check_disjoint(parts, 80)
    assert len(parts["validation"]) == 15
    assert not {r // 4 for r in parts["train"]} & {r // 4 for r in parts["validation"]}


def test_validation_that_exists_is_not_carved(fakes):
    split = {"type": "holdout", "validation": 0.1}
    with pytest.raises(DataError, match="there are validation rows"):
        fakes.Numbers(split=split).open("train")


def test_no_such_split(fakes):
    with pytest.raises(DataError) as error:
        fakes.Numbers().open("validation")
    assert str(error.value) == (
        "no rows to validation: the splits are test, train;"
        " split.validation carves some out of train"
    )


def test_without_given_splits(fakes):
    told = Told(4, None, None, lambda name: np.zeros(4))
    with pytest.raises(DataError, match="come without splits; declare one, such as split"):
        fakes.Numbers().split.parts(told)


def test_holdout(fakes):
    fractions = {"train": 0.5, "validation": 0.2, "test": 0.3}
    split = {"type": "holdout", "fractions": fractions, "stratify": "label"}
    parts = splits(fakes.Numbers(count=100, split=split))
    check_disjoint(parts, 100)
    for name, share in fractions.items():
        classes = np.bincount(np.array(sorted(parts[name])) % 10, minlength=10)
        assert classes.tolist() == [round(10 * share)] * 10


def test_kfold_tests_every_row_once(fakes):
    base = {"type": "kfold", "folds": 4, "group": "person", "validation": 0.2}
    folds = [splits(fakes.Numbers(count=48, split=base | {"fold": f})) for f in range(4)]
    for parts in folds:
        check_disjoint(parts, 48)
        people = {name: {row // 4 for row in rows} for name, rows in parts.items()}
        assert not people["train"] & people["test"]
        assert not people["train"] & people["validation"]
    assert sorted(row for parts in folds for row in parts["test"]) == list(range(48))
    assert {len(parts["test"]) for parts in folds} == {12}


def test_repeated(fakes):
    base = {"type": "repeated", "train": 20, "repeats": 3, "stratify": "label"}
    draws = [splits(fakes.Numbers(count=100, split=base | {"repeat": r})) for r in range(3)]
    for parts in draws:
        check_disjoint(parts, 100)
        assert np.bincount([row % 10 for row in parts["train"]]).tolist() == [2] * 10
    assert draws[0]["train"] != draws[1]["train"] != draws[2]["train"]
    carved = splits(fakes.Numbers(count=100, split=base | {"validation": 0.5}))
    assert carved["train"] | carved["validation"] == draws[0]["train"]
    assert np.bincount([row % 10 for row in carved["train"]]).tolist() == [1] * 10


def test_the_split_does_not_depend_on_the_order_of_reading(fakes):
    split = {"type": "kfold", "fold": 3, "stratify": "label", "seed": 5}
    fast, slow = (splits(fakes.Numbers(split=split, slow=slow)) for slow in (False, True))
    assert fast == slow


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"type": "kfold", "folds": 3, "fold": 3}, "fold 3 does not exist"),
        ({"type": "repeated", "repeat": 10}, "repeat 10 does not exist"),
        ({"type": "holdout", "fractions": {"train": 0.5}}, "add up to 0.5"),
        ({"type": "kfolds"}, 'there is no such type\n    found: "kfolds"'),
    ],
)
def test_impossible_protocols(fakes, split, message):
    with pytest.raises(SpecError, match=message):
        fakes.Numbers(split=split)


def test_unknown_column(fakes):
    spec = fakes.Numbers(split={"type": "kfold", "stratify": "lable"})
    with pytest.raises(DataError, match=r"no column 'lable' among .*; did you mean label"):
        spec.open("train")


def test_fields_of_the_default_protocol_can_be_set_alone(fakes):
    from pydantic import Field

    from fusekit.data.split import KFold, Split

    class Folded(fakes.Numbers):
        split: Split = Field(default_factory=lambda: KFold(folds=4, stratify="label"))

    assert Folded(split={"fold": 3}).split == KFold(folds=4, fold=3, stratify="label")
    assert Folded.model_validate(Folded(split={"fold": 3}).model_dump()).split.fold == 3


@pytest.mark.parametrize("field", ["stratify", "group"])
@pytest.mark.parametrize("slow", [False, True])
def test_a_column_of_arrays_divides_nothing(fakes, field, slow):
    spec = fakes.Numbers(split={"type": "holdout", field: "x"}, slow=slow)
    with pytest.raises(DataError, match=rf"split\.{field}: column 'x' holds arrays of shape \(3,"):
        spec.open("train")

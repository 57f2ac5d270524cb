"""Recall, median rank and zero-shot accuracy against loops; mean intersection over union."""

import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

import fusekit
from fusekit.conformance.cases import KINDS, Case
from fusekit.conformance.metrics import check_metric
from fusekit.errors import WiringError
from fusekit.program import Program
from fusekit.stream import Signature, Stream, sequence, vector
from fusekit.train.evaluate import evaluate
from fusekit_modules.metrics import _maxsim, _retrieval
from fusekit_modules.metrics.accuracy import AccuracySpec
from fusekit_modules.metrics.mean_iou import MeanIouSpec
from fusekit_modules.metrics.median_rank import MedianRankSpec
from fusekit_modules.metrics.recall import RecallSpec
from fusekit_modules.metrics.zero_shot_accuracy import ZeroShotAccuracySpec

PAIR = {"inputs": ["z", "a"]}  # not in alphabetical order: columns may come in any
NAMES = {"prediction": "map", "target": "batch.map"}


def rank(query, others, own, right, searched, cosine):
    """By sorting: the first right one, after all that are as similar."""

    def similarity(x, y):
        scale = np.linalg.norm(x) * np.linalg.norm(y) if cosine else 1
        return round(float(x @ y / scale), 10)

    scored = [(similarity(query, y), j) for j, y in enumerate(others) if searched(own, j)]
    best = max(s for s, j in scored if right(own, j))
    return 1 + sum(s >= best for s, j in scored if not right(own, j))


@pytest.fixture
def columns():
    r = np.random.default_rng(0)
    z = r.normal(size=(40, 4))
    a = z + r.normal(size=(40, 4))
    a[7], a[8] = a[3], 2 * a[3]
    return {"a": a, "z": z, "positives": r.integers(0, 25, 40), "within": r.integers(0, 6, 40)}


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("keys", [(), ("positives",), ("within",), ("positives", "within")])
def test_ranks_against_sorting(columns, keys, cosine, monkeypatch):
    monkeypatch.setattr(_retrieval, "BLOCK", 7)
    rows = np.arange(40) % 5 > 0
    given = {role: v for role, v in columns.items() if role in ("a", "z", *keys)}
    named = {role: f"batch.{role}" for role in keys}
    fields = {**PAIR, **named, "similarity": "cosine" if cosine else "dot"}
    z, a = columns["z"][rows], columns["a"][rows]
    key = columns["positives"][rows] if "positives" in keys else np.arange(len(z))
    group = columns["within"][rows] if "within" in keys else np.zeros(len(z))

    def found(one, other):
        return np.array(
            [
                rank(
                    x,
                    other,
                    i,
                    lambda i, j: key[i] == key[j],
                    lambda i, j: group[i] == group[j],
                    cosine,
                )
                for i, x in enumerate(one)
            ]
        )

    first, second = found(z, a), found(a, z)
    one = RecallSpec(at=[1, 5], **fields).compute(given, rows)
    assert one == pytest.approx(np.mean([np.mean(first <= 1), np.mean(first <= 5)]))
    both = RecallSpec(at=[2], direction="both", **fields).compute(given, rows)
    assert both == pytest.approx((np.mean(first <= 2) + np.mean(second <= 2)) / 2)
    middle = MedianRankSpec(direction="both", **fields).compute(given, rows)
    assert middle == (np.median(first) + np.median(second)) / 2
    assert MedianRankSpec(**fields).better == "lower"


def test_many_rows_take_no_matrix_of_them():
    """Numbers of the matrix form, ties and absent rows among them, in a fraction of its memory."""
    count, r = 5000, np.random.default_rng(0)
    z = r.normal(size=(count, 4))
    a = np.round(z + r.normal(size=(count, 4)), 1)
    a[1::9], z[5::7] = a[::9][: len(a[1::9])], np.nan  # ties; and rows that are absent
    rows = np.ones(count, bool)
    rows[5::7] = False
    unit = [v[rows] / np.linalg.norm(v[rows], axis=1, keepdims=True) for v in (z, a)]
    matrix = np.round(unit[0] @ unit[1].T, 10)
    own = np.diagonal(matrix)
    ranks = [(table >= own[:, None]).sum(axis=1) for table in (matrix, matrix.T)]
    size = matrix.nbytes
    del matrix
    tracemalloc.start()
    fields = {**PAIR, "direction": "both"}
    found = RecallSpec(at=[1, 10], **fields).compute({"z": z, "a": a}, rows)
    middle = MedianRankSpec(**fields).compute({"z": z, "a": a}, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == pytest.approx(np.mean([np.mean(rank <= k) for rank in ranks for k in (1, 10)]))
    assert middle == np.mean([np.median(rank) for rank in ranks])
    assert np.median(ranks[0]) > 2
    assert peak < 0.75 * size


def test_by_hand():
    given = {"z": np.eye(3), "a": np.array([[1.0, 0.2, 0], [0.9, 0.1, 0], [0, 0, 1.0]])}
    rows = np.ones(3, bool)
    # cosines to the first: 0.98, 0.99, 0; to the second: 0.20, 0.11, 0; the third is right
    assert MedianRankSpec(**PAIR).compute(given, rows) == 2.0
    assert RecallSpec(**PAIR).compute(given, rows) == pytest.approx(1 / 3)
    assert RecallSpec(**PAIR, at=[1, 2]).compute(given, rows) == pytest.approx(2 / 3)


def test_what_is_all_the_same_finds_nothing_and_what_is_not_finite_is_not_measured():
    given = {"z": np.ones((6, 2)), "a": np.ones((6, 2))}
    rows = np.ones(6, bool)
    assert RecallSpec(**PAIR, at=[5]).compute(given, rows) == 0.0
    given["z"][2] = np.nan
    for spec in (RecallSpec(**PAIR), MedianRankSpec(**PAIR)):
        assert np.isnan(spec.compute(given, rows))
        assert np.isfinite(spec.compute(given, np.arange(6) != 2))
        assert np.isnan(spec.compute(given, ~rows))


def nearest(query, item, cosine, mean):
    """MaxSim, token by token."""

    def similarity(x, y):
        return x @ y / (np.linalg.norm(x) * np.linalg.norm(y) if cosine else 1)

    found = [max(similarity(x, y) for y in item) for x in query]
    return round(np.mean(found) if mean else sum(found), 10)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("reduce", "similarity"), [("sum", "cosine"), ("mean", "dot")])
def test_ranks_of_token_sequences(reduce, similarity, padded, monkeypatch):
    """In both directions it is the first whose tokens look for their nearest."""
    monkeypatch.setattr(_maxsim, "BLOCK", 4)
    r = np.random.default_rng(5)
    z, a = r.normal(size=(15, 3, 4)), r.normal(size=(15, 5, 4))
    a[:, 1:4] += 0.8 * z
    masks = {"z": r.random((15, 3)) < 0.6, "a": r.random((15, 5)) < 0.6}
    masks["z"][[2, 3]] = masks["a"][[3, 4]] = False
    masks = masks if padded else {"z": np.ones((15, 3), bool), "a": np.ones((15, 5), bool)}
    rows = np.arange(15) != 8
    there = np.flatnonzero(rows & masks["z"].any(1) & masks["a"].any(1))
    assert len(there) == (11 if padded else 14)
    cosine, mean = similarity == "cosine", reduce == "mean"
    tokens = [{i: v[i][m[i]] for i in there} for v, m in ((z, masks["z"]), (a, masks["a"]))]
    table = np.array(
        [[nearest(tokens[0][i], tokens[1][j], cosine, mean) for j in there] for i in there]
    )
    first, second = ((t >= np.diag(t)[:, None]).sum(1) for t in (table, table.T))
    filled = {n: np.where(masks[n][..., None], v, np.nan) for n, v in (("a", a), ("z", z))}
    given = {**filled, **({f"{n}.mask": m for n, m in masks.items()} if padded else {})}
    fields = {**PAIR, "reduce": reduce, "similarity": similarity}
    assert MedianRankSpec(**fields).compute(given, rows) == np.median(first)
    both = RecallSpec(at=[2], direction="both", **fields).compute(given, rows)
    assert both == pytest.approx((np.mean(first <= 2) + np.mean(second <= 2)) / 2)
    assert np.mean(first) > 1
    assert (first != second).any()
    lost = {**given, "z": np.where(np.arange(15)[:, None, None] == there[0], np.nan, given["z"])}
    assert np.isnan(RecallSpec(**fields).compute(lost, rows))
    if padded:
        nothing = {**given, "a.mask": np.zeros((15, 5), bool)}
        assert np.isnan(RecallSpec(**fields).compute(nothing, rows))


@pytest.mark.parametrize("spec", [RecallSpec, MedianRankSpec])
@pytest.mark.parametrize("padded", [True, False])
def test_retrieval_by_tokens_obeys_the_laws(spec, padded):
    made = spec(inputs=["m0", "m1"], direction="both", reduce="mean")
    inputs = {role: sequence(6, 8, label="a", padded=padded) for role in ("m0", "m1")}
    made.check(inputs)
    assert not list(check_metric(Case(made, inputs, "sequences")))


def test_the_masks_of_both_inputs_reach_the_metric():
    """In a program what is padded has no part, whatever stands there."""
    tokens = {"type": "features", "width": 4, "length": 3, "optional": True}
    experiment = fusekit.experiment(
        modalities={"one": tokens, "other": {**tokens, "length": 5}},
        encoders={
            m: {"type": "projection", "width": 4, "input": f"batch.{m}"} for m in ("one", "other")
        },
        losses={"align": {"type": "late_interaction", "inputs": ["one", "other"]}},
        metrics={"recall": {"type": "recall", "inputs": ["one", "other"], "at": [1, 2]}},
    )
    program = Program(fusekit.resolve(experiment))
    r = np.random.default_rng(6)
    values = {"one": r.normal(size=(8, 3, 4)), "other": r.normal(size=(8, 5, 4))}
    masks = {m: r.random(v.shape[:2]) < 0.7 for m, v in values.items()}
    present = {m: np.arange(8) != k for k, m in enumerate(values)}

    def found(garbage):
        batch = {}
        for m, v in values.items():
            there = masks[m] & present[m][:, None]
            filled = np.where(there[..., None], v, garbage).astype("float32")
            batch[m] = Stream(filled, masks[m], present[m])
        return evaluate(program, program.init(0), [batch])["recall"]

    assert found(0.0) == found(np.nan) == found(1e30)
    assert 0 < found(0.0) < 1


def test_zero_shot_accuracy_against_loops():
    r = np.random.default_rng(1)
    target, rows = r.integers(0, 4, 30), np.arange(30) % 4 > 0
    prompts = r.normal(size=(4, 3))[target] + 0.1 * r.normal(size=(30, 3))
    images = prompts + r.normal(size=(30, 3))
    prompts[~rows] = np.nan

    def unit(v):
        return v / np.linalg.norm(v, axis=-1, keepdims=True)

    means = {c: unit(unit(prompts[rows & (target == c)]).mean(0)) for c in range(4)}
    right = [
        max(means, key=lambda c, x=x: x @ means[c]) == y
        for x, y in zip(unit(images[rows]), target[rows], strict=True)
    ]
    spec = ZeroShotAccuracySpec(**PAIR, target="batch.label")
    given = {"target": target, "a": prompts, "z": images}
    assert spec.compute(given, rows) == pytest.approx(np.mean(right))
    assert 0.3 < np.mean(right) < 1
    assert np.isnan(spec.compute(given, rows & (target == 2)))


def test_zero_shot_accuracy_obeys_the_laws():
    (kinds,) = ZeroShotAccuracySpec.example_inputs()
    (settings,) = ZeroShotAccuracySpec.examples()
    spec = ZeroShotAccuracySpec(**settings)
    inputs = {role: KINDS[kind] for role, kind in kinds.items()}
    spec.check(inputs)
    assert not list(check_metric(Case(spec, inputs, "labels")))


def test_mean_intersection_over_union():
    r = np.random.default_rng(2)
    logits = np.round(r.normal(size=(5, 3, 4, 4)), 1)
    target = r.integers(0, 3, (5, 3, 4))
    logits[..., 1] -= 0.5
    rows = np.array([True, True, False, True, True])
    known = r.random((5, 3, 4)) < 0.8
    frames = np.array([[True, True, False]] * 5)
    valid = rows[:, None, None] & known & frames[..., None]
    guess = logits.argmax(-1)
    columns = {"prediction": logits, "target": target, "where": known, "prediction.mask": frames}
    columns["prediction"] = np.where(valid[..., None], logits, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = MeanIouSpec(**NAMES).compute(columns, rows)
    expected = reference.jaccard_score(target[valid], guess[valid], average="macro")
    assert found == pytest.approx(expected)
    pixels = AccuracySpec(**NAMES).compute(columns, rows)
    assert pixels == pytest.approx((guess == target)[valid].mean())
    assert np.isnan(MeanIouSpec(**NAMES).compute(columns, np.zeros(5, bool)))


def test_intersection_over_union_by_hand():
    """Class 0: 1 of 2, class 1: 1 of 3, class 2: none of 1; classes 3 and 4 occur nowhere."""
    guess, target = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1])
    logits = np.eye(5)[guess]
    expected = np.mean([1 / 2, 1 / 3, 0 / 1])
    given = {"prediction": logits, "target": target}
    assert MeanIouSpec(**NAMES).compute(given, np.ones(4, bool)) == pytest.approx(expected)


def test_misfits():
    label = Signature((), "int", classes=3)
    grid = Signature((("height", 2), ("width", 2), ("channel", 3)))
    classes = Signature((("height", 2), ("width", 2)), "int", classes=3)
    MeanIouSpec(**NAMES).check({"prediction": grid, "target": classes})
    AccuracySpec(**NAMES).check({"prediction": grid, "target": classes, "where": classes})
    with pytest.raises(WiringError, match="sizes"):
        MeanIouSpec(**NAMES).check({"prediction": grid, "target": label})
    two = {"z": vector(2), "a": vector(2)}
    with pytest.raises(WiringError, match="differ in embed"):
        RecallSpec(**PAIR).check({**two, "a": vector(3)})
    with pytest.raises(WiringError, match="differ in embed"):
        RecallSpec(**PAIR).check({"z": sequence(2, 3), "a": sequence(2, 4)})
    with pytest.raises(WiringError, match="where a vector is due"):
        RecallSpec(**PAIR).check({"z": vector(3), "a": sequence(2, 3, label="a")})
    with pytest.raises(WiringError, match="within is no key"):
        RecallSpec(**PAIR, within="batch.x").check({**two, "within": vector(3)})
    with pytest.raises(WiringError, match="no class"):
        ZeroShotAccuracySpec(**PAIR, target="batch.x").check({**two, "target": vector(3)})

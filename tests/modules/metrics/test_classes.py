import warnings

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.preprocessing import label_binarize

from fusekit.errors import WiringError
from fusekit.stream import Signature, Span, sequence, vector
from fusekit_modules.metrics.accuracy import AccuracySpec
from fusekit_modules.metrics.auroc import AurocSpec
from fusekit_modules.metrics.average_precision import AveragePrecisionSpec
from fusekit_modules.metrics.balanced_accuracy import BalancedAccuracySpec
from fusekit_modules.metrics.calibration_error import CalibrationErrorSpec
from fusekit_modules.metrics.macro_f1 import MacroF1Spec

NAMES = {"prediction": "head", "target": "batch.label"}
EVERY = [
    AccuracySpec(**NAMES),
    AurocSpec(**NAMES),
    AveragePrecisionSpec(**NAMES),
    BalancedAccuracySpec(**NAMES),
    CalibrationErrorSpec(**NAMES),
    MacroF1Spec(**NAMES),
]


def compute(spec, prediction, target, rows=None):
    prediction = np.asarray(prediction, np.float64)
    rows = np.ones(len(prediction), bool) if rows is None else np.asarray(rows)
    return spec.compute({"prediction": prediction, "target": np.asarray(target)}, rows)


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


@pytest.fixture(params=[2, 4])
def case(request):
    """Logits in coarse steps, so that scores tie, and classes."""
    rng = np.random.default_rng(request.param)
    logits = np.round(rng.normal(size=(60, request.param)) * 2) / 2
    return logits, rng.permuted(np.arange(60) % request.param)


def test_against_scikit_learn(case):
    logits, target = case
    count, chances, guess = logits.shape[1], softmax(logits), logits.argmax(axis=1)
    score = chances[:, 1] if count == 2 else chances
    truth = target if count == 2 else label_binarize(target, classes=range(count))
    # Probabilities tie for scikit-learn as log-odds do for us: rounding must not split ties.
    score = np.round(score, 12)
    expected = [
        reference.accuracy_score(target, guess),
        reference.roc_auc_score(truth, score, average="macro"),
        reference.average_precision_score(truth, score, average="macro"),
        reference.balanced_accuracy_score(target, guess),
        None,
        reference.f1_score(target, guess, average="macro"),
    ]
    for spec, value in zip(EVERY, expected, strict=True):
        if value is not None:
            assert compute(spec, logits, target) == pytest.approx(value, abs=1e-12), spec.type


@pytest.mark.parametrize("spec", [AurocSpec(**NAMES), AveragePrecisionSpec(**NAMES)])
def test_exact_where_probabilities_saturate(spec):
    logits = [[0, 800.0], [0, 900.0], [0, 700.0], [0, 750.0]]
    assert compute(spec, logits, [1, 1, 0, 0]) == 1.0
    assert compute(spec, [[*row, -5.0] for row in logits], [1, 1, 0, 2]) > 0.5


@pytest.mark.parametrize("top", [1, 2, 3])
def test_top_guesses(top):
    rng = np.random.default_rng(9)
    logits, target = rng.normal(size=(50, 5)), rng.integers(0, 5, size=50)
    expected = reference.top_k_accuracy_score(target, logits, k=top, labels=range(5))
    assert compute(AccuracySpec(**NAMES, top=top), logits, target) == pytest.approx(expected)


def test_ties_go_to_the_lower_class():
    assert compute(AccuracySpec(**NAMES), [[1.0, 1.0], [1.0, 1.0]], [0, 1]) == 0.5
    assert compute(AccuracySpec(**NAMES, top=2), [[1.0, 1.0, 1.0]] * 3, [0, 1, 2]) == 2 / 3


def test_worked_by_hand():
    logits = [[2.0, 0.0], [0.0, 1.0], [3.0, 1.0], [0.5, 0.0]]
    target = [0, 1, 1, 0]
    assert compute(AccuracySpec(**NAMES), logits, target) == 0.75
    assert compute(BalancedAccuracySpec(**NAMES), logits, target) == (1 + 0.5) / 2
    # class 0: 2 hits, 3 predicted, 2 hold; class 1: 1 hit, 1 predicted, 2 hold
    assert compute(MacroF1Spec(**NAMES), logits, target) == pytest.approx((4 / 5 + 2 / 3) / 2)
    # scores of the second class -2, 1, -2, -0.5: positives 1 and -2 against -2 and -0.5
    assert compute(AurocSpec(**NAMES), logits, target) == (1 + 1 + 0.5 + 0) / 4
    # thresholds 1, -0.5, -2: precision 1, 1/2, 2/4; recall 1/2, 1/2, 1
    assert compute(AveragePrecisionSpec(**NAMES), logits, target) == 0.5 * 1 + 0.5 * 0.5


def test_calibration_by_hand():
    chances = np.array([[0.9, 0.1], [0.85, 0.15], [0.4, 0.6], [0.55, 0.45]])
    # with 5 bins: (0.8, 1] holds 0.9 right and 0.85 wrong; (0.4, 0.6] holds 0.6 right, 0.55 right
    expected = (abs(1 - 1.75) + abs(2 - 1.15)) / 4
    spec = CalibrationErrorSpec(**NAMES, bins=5)
    assert compute(spec, np.log(chances), [0, 1, 1, 0]) == pytest.approx(expected)
    assert compute(spec, [[0.0, 500.0]] * 3, [1, 1, 1]) == 0.0
    assert spec.better == "lower"


def test_calibration_against_a_loop():
    rng = np.random.default_rng(4)
    logits, target = rng.normal(size=(80, 3)), rng.integers(0, 3, size=80)
    chances = softmax(logits)
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == target
    total = 0.0
    for k in range(10):
        inside = (confidence > k / 10) & (confidence <= (k + 1) / 10)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert compute(CalibrationErrorSpec(**NAMES, bins=10), logits, target) == pytest.approx(total)


@pytest.mark.parametrize("spec", EVERY)
def test_rows_that_do_not_count(spec, case):
    logits, target = case
    rows = np.arange(60) % 5 != 0
    alone = compute(spec, logits[rows], target[rows])
    poisoned = np.where(rows[:, None], logits, np.nan)
    assert compute(spec, poisoned, np.where(rows, target, -7), rows) == alone
    assert np.isnan(compute(spec, logits, target, np.zeros(60, bool)))
    assert np.isnan(compute(spec, poisoned, target))


@pytest.mark.parametrize("spec", EVERY)
def test_tokens_count_singly(spec, case):
    logits, target = case
    shape = (12, 5)
    mask = np.random.default_rng(0).random(shape) < 0.8
    known = np.random.default_rng(1).random(shape) < 0.9
    rows = np.arange(12) > 1
    valid = (mask & known & rows[:, None]).reshape(-1)
    columns = {
        "prediction": np.where(valid[:, None], logits, np.nan).reshape(*shape, -1),
        "target": target.reshape(shape),
        "prediction.mask": mask,
        "target.mask": known,
    }
    assert spec.compute(columns, rows) == compute(spec, logits[valid], target[valid])


def test_where_marks_tokens_or_rows():
    logits = np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    columns = {"prediction": logits, "target": np.array([[0, 0], [1, 0]])}
    spec, rows = AccuracySpec(**NAMES, where="batch.masked.hidden"), np.ones(2, bool)
    assert (
        spec.compute({**columns, "where": np.array([[True, False], [True, True]])}, rows) == 2 / 3
    )
    assert spec.compute({**columns, "where": np.array([0, 1])}, rows) == 1 / 2
    flat = {
        "prediction": logits[:, 0],
        "target": np.array([0, 1]),
        "where": np.array([True, False]),
    }
    assert spec.compute(flat, rows) == 1.0
    label = Signature((), dtype="int", classes=2)
    with pytest.raises(WiringError, match="marks neither"):
        spec.check({"prediction": vector(2), "target": label, "where": vector(3)})


@pytest.mark.parametrize("spec", EVERY)
def test_width_one_is_the_second_of_two(spec):
    rng = np.random.default_rng(6)
    logits, target = rng.normal(size=(20, 1)), np.arange(20) % 2
    both = np.concatenate([np.zeros((20, 1)), logits], axis=1)
    assert compute(spec, logits, target) == compute(spec, both, target)
    spec.check({"prediction": vector(1), "target": Signature((), dtype="int", classes=2)})


def test_labels():
    rng = np.random.default_rng(8)
    logits = np.round(rng.normal(size=(40, 3)), 1)
    target = rng.integers(0, 2, size=(40, 3)).astype(float)
    expected = {
        "auroc": reference.roc_auc_score(target, logits, average="macro"),
        "average_precision": reference.average_precision_score(target, logits, average="macro"),
        "macro_f1": reference.f1_score(target, logits > 0, average="macro"),
    }
    for spec in EVERY:
        if spec.type in expected:
            spec.check({"prediction": vector(3), "target": vector(3)})
            assert compute(spec, logits, target) == pytest.approx(expected[spec.type])


def test_missing_classes():
    logits, target = np.random.default_rng(0).normal(size=(9, 3)), np.arange(9) % 2
    guess = logits.argmax(axis=1)
    truth = label_binarize(target, classes=[0, 1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        balanced = reference.balanced_accuracy_score(target, guess)
        precision = reference.average_precision_score(truth, logits, average=None)
        assert np.isnan(reference.roc_auc_score([1, 1], [0.1, 0.2]))
        silent = reference.f1_score([[1, 0]], [[1, 0]], average="macro", zero_division=0)
    assert precision[2] == 0.0
    assert compute(BalancedAccuracySpec(**NAMES), logits, target) == pytest.approx(balanced)
    f1 = reference.f1_score(target, guess, average="macro")
    assert compute(MacroF1Spec(**NAMES), logits, target) == pytest.approx(f1)
    assert compute(MacroF1Spec(**NAMES), [[1.0, -1.0]], [[1.0, 0.0]]) == silent == 0.5
    assert np.isnan(compute(AurocSpec(**NAMES), logits, target))
    assert np.isnan(compute(AurocSpec(**NAMES), [[0.0, 1.0]] * 2, [1, 1]))
    assert compute(AveragePrecisionSpec(**NAMES), [[0.0, 1.0]] * 2, [0, 0]) == 0.0


def test_misfits():
    label = Signature((), dtype="int", classes=3)
    tags = Signature((("time", 4),), dtype="int", spans=(Span("", 4),), classes=3)
    EVERY[0].check({"prediction": vector(3), "target": label})
    EVERY[0].check({"prediction": sequence(4, 3), "target": tags})
    with pytest.raises(WiringError, match="numbers of classes"):
        EVERY[0].check({"prediction": vector(4), "target": label})
    with pytest.raises(WiringError, match="no logits"):
        EVERY[0].check({"prediction": label, "target": label})
    with pytest.raises(WiringError, match="holds no classes"):
        EVERY[0].check({"prediction": vector(3), "target": vector(3)})
    with pytest.raises(WiringError, match="numbers of labels"):
        EVERY[1].check({"prediction": vector(3), "target": vector(2)})


def test_more_guesses_than_tell_anything_are_refused():
    label = Signature((), dtype="int", classes=3)
    AccuracySpec(**NAMES, top=2).check({"prediction": vector(3), "target": label})
    for top in (3, 5):
        with pytest.raises(WiringError, match="every row is right"):
            AccuracySpec(**NAMES, top=top).check({"prediction": vector(3), "target": label})


INFINITE = np.array(
    [
        [np.inf, 0.0, -np.inf],
        [0.0, -np.inf, -np.inf],
        [-np.inf, 1.0, 0.0],
        [-np.inf, -np.inf, -np.inf],
        [np.inf, np.inf, 0.0],
        [0.5, 0.2, 0.1],
    ]
)


@pytest.mark.parametrize("columns", [3, 2, 1])
@pytest.mark.parametrize("spec", EVERY)
def test_infinite_logits_are_limits_of_large_ones(spec, columns):
    logits = INFINITE[:, :columns]
    target = np.arange(6) % max(columns, 2)
    large = np.clip(logits, -1e6, 1e6)
    chances = softmax(np.concatenate([0 * large, large], 1) if columns == 1 else large)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compute(spec, logits, target)
    if spec.type in ("auroc", "average_precision"):
        score = {"auroc": reference.roc_auc_score}.get(spec.type, reference.average_precision_score)
        truth = target if columns < 3 else label_binarize(target, classes=range(3))
        expected = score(truth, chances[:, 1] if columns < 3 else chances, average="macro")
    else:
        expected = compute(spec, large, target)
    assert found == pytest.approx(expected)

import numpy as np
import pytest
from sklearn import metrics as reference

from fusekit.errors import WiringError
from fusekit.stream import Signature, sequence, vector
from fusekit_modules.metrics.mae import MaeSpec
from fusekit_modules.metrics.rmse import RmseSpec

NAMES = {"prediction": "head", "target": "batch.number"}
MAE, RMSE = MaeSpec(**NAMES), RmseSpec(**NAMES)


@pytest.mark.parametrize("width", [1, 3])
def test_against_scikit_learn(width):
    rng = np.random.default_rng(width)
    prediction, target = rng.normal(size=(20, width)), rng.normal(size=(20, width))
    rows = np.arange(20) % 3 > 0
    columns = {"prediction": np.where(rows[:, None], prediction, np.inf), "target": target}
    kept = target[rows], prediction[rows]
    mae, rmse = MAE.compute(columns, rows), RMSE.compute(columns, rows)
    assert mae == pytest.approx(reference.mean_absolute_error(*kept))
    assert rmse == pytest.approx(reference.root_mean_squared_error(*kept))
    assert np.isnan(MAE.compute(columns, rows & False))


def test_scalar_target_by_hand():
    columns = {"prediction": np.array([[1.0], [3.0]]), "target": np.array([0.0, 0.0])}
    rows = np.ones(2, bool)
    assert MAE.compute(columns, rows) == 2.0
    assert RMSE.compute(columns, rows) == np.sqrt(5.0)
    assert MAE.better == RMSE.better == "lower"


def test_tokens_by_hand():
    columns = {
        "prediction": np.array([[[1.0], [np.nan]], [[3.0], [5.0]]]),
        "target": np.zeros((2, 2, 1)),
        "target.mask": np.array([[True, False], [True, True]]),
    }
    assert MAE.compute(columns, np.array([True, True])) == 3.0


def test_misfits():
    MAE.check({"prediction": vector(1), "target": Signature(())})
    MAE.check({"prediction": sequence(3, 2), "target": sequence(3, 2)})
    with pytest.raises(WiringError, match="shapes"):
        MAE.check({"prediction": vector(2), "target": Signature(())})
    with pytest.raises(WiringError, match="no real numbers"):
        MAE.check({"prediction": vector(1), "target": Signature((), dtype="int", classes=2)})

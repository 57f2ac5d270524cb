import numpy as np

from fusekit.data.pipeline import Pipeline
from fusekit_modules.sources.archive import EMBEDDED
from fusekit_modules.sources.mfeat import MfeatSpec


def test_the_protocol_of_the_data():
    drawn = set()
    for repeat in range(10):
        spec = MfeatSpec(split={"repeat": repeat})
        train, test = spec.open("train"), spec.open("test")
        assert (len(train), len(test)) == (100, 1900)
        assert not set(train.index) & set(test.index)
        assert np.bincount(train.columns()["label"]).tolist() == [10] * 10
        # as documented: ten of each class by default_rng(repeat)
        rng = np.random.default_rng(repeat)
        rows = [rng.choice(200, 10, replace=False) + 200 * digit for digit in range(10)]
        drawn.add(tuple(sorted(train.index)))
        assert train.index.tolist() == np.sort(np.concatenate(rows)).tolist()
    assert len(drawn) == 10


def test_validation_is_carved_out_of_train():
    spec = MfeatSpec(split={"repeat": 3, "validation": 0.3})
    whole = set(MfeatSpec(split={"repeat": 3}).open("train").index.tolist())
    train, validation = (set(spec.open(s).index.tolist()) for s in ("train", "validation"))
    assert train | validation == whole
    assert np.bincount([row // 200 for row in validation]).tolist() == [3] * 10


def test_other_protocols():
    spec = MfeatSpec(split={"type": "kfold", "folds": 10, "fold": 2, "stratify": "label"})
    assert np.bincount(spec.open("test").columns()["label"]).tolist() == [20] * 10
    drawn = MfeatSpec(split={"rows": "drawn", "train": 50})
    assert np.bincount(drawn.open("train").columns()["label"]).tolist() == [5] * 10


def test_views_are_standardised_by_the_training_rows(views):
    with np.load(EMBEDDED / "mfeat.npz", allow_pickle=False) as stored:
        mor, rows = stored["mor"].astype(np.float64), stored["train_rows"][1]
    spec = MfeatSpec(split={"repeat": 1})
    pipeline = Pipeline(
        {"m": spec}, views, batch=50, seed=0, split="test", training=False, threads=0
    )
    for batch in list(pipeline)[:3]:
        expected = (mor[batch.index] - mor[rows].mean(0)) / mor[rows].std(0)
        np.testing.assert_allclose(batch.streams["mor"].values, expected, rtol=1e-5, atol=1e-6)
        assert {n: s.values.shape[1:] for n, s in batch.streams.items()} == {
            "fou": (76,), "fac": (216,), "kar": (64,), "pix": (240,), "zer": (47,), "mor": (6,),
            "label": (), "valid": (),
        }  # fmt: skip

import numpy as np
from sklearn.datasets import load_digits

from fusekit.data.pipeline import Pipeline
from fusekit_modules.sources.archive import EMBEDDED
from fusekit_modules.sources.av_digits import AvDigitsSpec


def test_splits_and_shapes():
    sizes = {split: len(AvDigitsSpec().open(split)) for split in AvDigitsSpec().splits()}
    assert sizes == {"train": 1045, "validation": 185, "test": 567}
    row = AvDigitsSpec().open("test")[0]
    assert (row["image"].shape, row["audio"].shape) == ((8, 8, 1), (31, 32))


def test_clean_images_are_the_published_ones():
    published = load_digits()
    columns = AvDigitsSpec(image="clean").rows({}).columns()
    np.testing.assert_array_equal(columns["image"][..., 0] * 16, published.images)
    np.testing.assert_array_equal(columns["label"], published.target)


def test_variants():
    noisy, clean = (
        AvDigitsSpec(image=kind, audio=kind).rows({}).columns() for kind in ("noisy", "clean")
    )
    with np.load(EMBEDDED / "av_digits.npz", allow_pickle=False) as stored:
        np.testing.assert_allclose(noisy["audio"] * 50, stored["audio"], atol=1e-5)
        np.testing.assert_allclose(clean["audio"] * 50, stored["audio_clean"], atol=1e-5)
    for columns in (noisy, clean):
        assert columns["audio"].min() >= 0
        assert columns["audio"].max() <= 1
    assert np.abs(noisy["image"] - clean["image"]).mean() > 0.1


def test_test_voices_are_unseen():
    train, test = (AvDigitsSpec().open(split).columns()["voice"] for split in ("train", "test"))
    assert not set(train.tolist()) & set(test.tolist())


def test_batches(digits):
    source = AvDigitsSpec(missing={"audio": {"rate": 0.3, "splits": ["test"]}})
    pipeline = Pipeline(
        {"digits": source}, digits, batch=64, seed=0, split="test", training=False, threads=0
    )
    batches = list(pipeline)
    assert len(batches) == 9
    presence = np.concatenate([b.streams["audio"].presence[b.valid] for b in batches])
    assert len(presence) == 567
    assert abs(presence.mean() - 0.7) < 0.1
    columns = source.open("test").columns()
    image = np.concatenate([b.streams["image"].values[b.valid] for b in batches])
    np.testing.assert_array_equal(image, columns["image"])
    audio = np.concatenate([b.streams["audio"].values[b.valid] for b in batches])
    np.testing.assert_array_equal(audio[presence][..., 0], columns["audio"][presence])
    assert not audio[~presence].any()

import numpy as np

from fusekit.data.pipeline import Pipeline
from fusekit_modules.modalities.features import FeaturesSpec
from fusekit_modules.modalities.image import ImageSpec
from fusekit_modules.modalities.label import LabelSpec
from fusekit_modules.modalities.tabular import TabularSpec
from fusekit_modules.modalities.tokens import TokensSpec
from fusekit_modules.sources.synthetic import SyntheticSpec

MODALITIES = {
    "image": ImageSpec(shape=(4, 4, 1)),
    "text": TokensSpec(vocab=11, length=6),
    "table": TabularSpec(numeric=("a",), categorical={"b": 3}),
    "series": FeaturesSpec(width=3, length=5),
    "label": LabelSpec(classes=3),
}


def pipeline(split="train", **options):
    source = SyntheticSpec(sizes={"train": 300, "test": 60}, **options)
    return Pipeline(
        {"s": source}, MODALITIES, batch=60, seed=0, split=split, training=False, threads=0
    )


def test_all_modalities_fit():
    batches = list(pipeline())
    assert len(batches) == 5
    text = batches[0].streams["text"]
    assert {int(n) for n in text.mask.sum(1)} == set(range(1, 7))
    assert text.values[text.mask].min() >= 1
    assert set(np.unique(batches[0].streams["label"].values)) == {0, 1, 2}


def test_rows_repeat_by_seed():
    a, b, c = (next(iter(pipeline(seed=seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a.streams["image"].values, b.streams["image"].values)
    assert np.abs(a.streams["image"].values - c.streams["image"].values).max() > 0.1


def nearest_mean_accuracy(**options):
    """Of classes by the nearest mean image of the training rows."""

    def gathered(split):
        batches = list(pipeline(split, **options))
        image = np.concatenate([b.streams["image"].values[b.valid] for b in batches])
        label = np.concatenate([b.streams["label"].values[b.valid] for b in batches])
        return image.reshape(len(image), -1), label

    (x, y), (u, v) = gathered("train"), gathered("test")
    means = np.stack([x[y == k].mean(0) for k in range(3)])
    found = np.argmin(((u[:, None] - means) ** 2).sum(-1), axis=1)
    return (found == v).mean()


def test_the_label_can_be_learned():
    assert nearest_mean_accuracy(signal=0.7) > 0.95
    assert nearest_mean_accuracy(signal=0.0) < 0.6

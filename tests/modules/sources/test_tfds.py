import sys

import numpy as np
import pytest

from fusekit.errors import DataError, SpecError
from fusekit_modules.sources.tfds import TfdsSpec


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A tiny data set written as array_record, without TensorFlow."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("tfds")

    class TinyPairs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # to find it, tfds wants a package that it does not install

        def _info(self):
            features = {
                "x": tfds.features.Tensor(shape=(2,), dtype=np.float32),
                "label": tfds.features.ClassLabel(num_classes=3),
                "text": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(0, 4), "test": self._generate_examples(4, 6)}

        def _generate_examples(self, start, stop):
            for i in range(start, stop):
                yield i, {"x": np.full(2, i, np.float32), "label": i % 3, "text": f"row {i}"}

    builder = TinyPairs(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


@pytest.mark.filterwarnings("ignore")
def test_rows(prepared):
    spec = TfdsSpec(path=prepared)
    assert set(spec.splits()) == {"train", "test"}
    train, test = spec.open("train"), spec.open("test")
    rows = [*train, *test]
    assert sorted(float(row["x"][0]) for row in rows) == [0, 1, 2, 3, 4, 5]
    for row in rows:
        assert row["text"] == f"row {int(row['x'][0])}"
        assert row["label"] == int(row["x"][0]) % 3
    assert {float(row["x"][0]) for row in test} == {4, 5}
    assert "tensorflow" not in sys.modules


@pytest.mark.filterwarnings("ignore")
def test_errors(tmp_path):
    with pytest.raises(SpecError, match="give either name or path"):
        TfdsSpec()
    with pytest.raises(DataError, match="cannot be read"):
        TfdsSpec(path=tmp_path).rows({})

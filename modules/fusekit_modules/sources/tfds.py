from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from fusekit.component import ModalitySpec, SourceSpec, register
from fusekit.data.rows import JoinedRows, Rows
from fusekit.errors import DataError


@register
class TfdsSpec(SourceSpec):
    """A TensorFlow Datasets data set prepared as array_record; TensorFlow is not needed to read.

    Give `name` and `data_dir`, or the `path` of a prepared version (`.../mnist/3.0.1`). Nothing is
    downloaded or prepared: `tfds build NAME --file_format=array_record` does that. Text comes as
    `str`; ragged features must fit a modality that pads.
    """

    type: Literal["tfds"] = "tfds"
    name: str | None = Field(None, description="name[/config][:version] of a prepared data set")
    data_dir: Path | None = Field(None, description="where prepared data sets lie")
    path: Path | None = Field(None, description="the folder of one prepared version")

    @model_validator(mode="after")
    def _one(self) -> "TfdsSpec":
        if (self.name is None) == (self.path is None):
            raise ValueError("give either name or path")
        return self

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{"name": "mnist"}]

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        try:
            import tensorflow_datasets as tfds
        except ImportError as error:
            raise DataError(f"type tfds needs tensorflow-datasets: {error}") from error
        try:
            if self.path is not None:
                builder: Any = tfds.builder_from_directory(self.path.expanduser())
            else:
                where = str(self.data_dir.expanduser()) if self.data_dir else None
                builder = tfds.builder(self.name or "", data_dir=where)
            parts = {name: builder.as_data_source(split=name) for name in builder.info.splits}
        except Exception as error:
            raise DataError(f"{self.name or self.path} cannot be read: {error}") from error
        if not parts:
            raise DataError(f"{self.name or self.path} is not prepared: it has no splits")
        features: Any = builder.info.features
        texts = {
            name for name, feature in features.items() if isinstance(feature, tfds.features.Text)
        }
        return TfdsRows(parts, names=tuple(features), texts=texts)


class TfdsRows(JoinedRows):
    """Rows of the splits in turn, text decoded."""

    def __init__(self, parts: Mapping[str, Any], *, names: tuple[str, ...], texts: set[str]):
        super().__init__(parts, names=names)
        self._texts = texts

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        found = dict(super().__getitem__(row))
        for name in self._texts:
            if isinstance(found[name], bytes):
                found[name] = found[name].decode()
        return found

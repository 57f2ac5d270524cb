from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from fusekit.component import ModalitySpec, SourceSpec, register
from fusekit.data.rows import JoinedRows, Rows
from fusekit.errors import DataError
from fusekit_modules.sources.decode import image_array


@register
class HfSpec(SourceSpec):
    """A HuggingFace data set as `Dataset.save_to_disk` or `DatasetDict.save_to_disk` left it.

    Needs the package `datasets`. Nothing is downloaded. Images become arrays `[h, w, c]`, lists
    become arrays, None is an absence.
    """

    type: Literal["hf"] = "hf"
    path: Path = Field(description="the folder that save_to_disk wrote")

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        try:
            import datasets  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise DataError("type hf needs the package datasets: pip install datasets") from error
        folder = self.path.expanduser()
        try:
            loaded = datasets.load_from_disk(str(folder))
        except (FileNotFoundError, ValueError) as error:
            raise DataError(f"{folder} is no data set that save_to_disk wrote: {error}") from error
        parts = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"": loaded}
        names = dict.fromkeys(name for part in parts.values() for name in part.column_names)
        return HfRows(parts, names=tuple(names))


class HfRows(JoinedRows):
    """Rows of the splits in turn, with plain values."""

    def __getitem__(self, row: int) -> Mapping[str, Any]:
        return {name: _plain(value) for name, value in super().__getitem__(row).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Image.Image):
        return image_array(value)
    return np.asarray(value) if isinstance(value, list) else value

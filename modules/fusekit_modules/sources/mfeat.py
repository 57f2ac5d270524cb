from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import numpy as np
from pydantic import Field

from fusekit.component import ModalitySpec, SourceSpec, register
from fusekit.data.rows import ArrayRows, Rows
from fusekit.data.split import Repeated, Split
from fusekit_modules.sources.archive import EMBEDDED, read_archive

VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")


def _protocol() -> Repeated:
    return Repeated(train=100, repeats=10, rows="given", stratify="label")


@register
class MfeatSpec(SourceSpec):
    """Six descriptions of 2000 handwritten digits (UCI Multiple Features, CC BY 4.0), embedded.

    Columns: the vectors `fou` (76), `fac` (216), `kar` (64), `pix` (240), `zer` (47), `mor` (6),
    float32, and `label` 0..9. The default protocol trains on 100 rows, 10 of each class, and
    tests on the other 1900, in ten repeats; the views are standardised by the training rows.
    """

    type: Literal["mfeat"] = "mfeat"
    split: Split = Field(default_factory=_protocol, description="the protocol: which rows train")
    standardise: tuple[str, ...] = Field(
        VIEWS, description="modalities scaled by mean and deviation of each feature in train rows"
    )

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        return _rows()


@lru_cache(maxsize=1)
def _rows() -> Rows:
    arrays = read_archive(EMBEDDED / "mfeat.npz")
    columns = {name: arrays[name] for name in VIEWS} | {"label": arrays["label"].astype(np.int32)}
    return ArrayRows(columns, repeats=arrays["train_rows"].astype(np.int64))

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from pydantic import Field

from fusekit.component import ModalitySpec, SourceSpec, register
from fusekit.data.rows import ArrayRows, Rows
from fusekit_modules.sources.archive import EMBEDDED, read_archive

Variant = Literal["clean", "noisy"]
LEVELS = 50
SPLITS = np.array(["train", "validation", "test"])


@register
class AvDigitsSpec(SourceSpec):
    """Handwritten digits paired with the digit's name spoken: 1797 rows, embedded.

    Images are real (UCI optdigits, test part, CC BY 4.0), the speech is synthetic (espeak-ng),
    and the two are paired by label. The test rows are spoken by voices unseen in training.

    Columns: `image [8, 8, 1]` float32 in 0..1; `audio [31, 32]` float32, frames by mel bands,
    decibels above the floor over 62.5; `label` 0..9; and what was said how: `voice`, `accent`,
    `rate` (words a minute), `pitch`.
    """

    type: Literal["av_digits"] = "av_digits"
    image: Variant = Field("noisy", description="with the declared pixel noise, or as collected")
    audio: Variant = Field("noisy", description="mixed with white noise, or as synthesised")

    def rows(self, modalities: Mapping[str, ModalitySpec]) -> Rows:
        return _rows(self.image, self.audio)

    @classmethod
    def examples(cls) -> list[dict[str, Any]]:
        return [{}, {"image": "clean", "audio": "clean"}]


@lru_cache(maxsize=4)
def _rows(image: Variant, audio: Variant) -> Rows:
    arrays = read_archive(EMBEDDED / "av_digits.npz")
    pixels = arrays["image" if image == "noisy" else "image_clean"]
    codes = arrays["audio" if audio == "noisy" else "audio_clean"]
    columns = {
        "image": (pixels[..., None] / np.float32(16)).astype(np.float32),
        "audio": (codes / np.float32(LEVELS)).astype(np.float32),
        "label": arrays["label"].astype(np.int32),
        **{name: arrays[name].astype(np.int32) for name in ("voice", "accent", "rate", "pitch")},
    }
    for column in columns.values():
        column.flags.writeable = False
    return ArrayRows(columns, given=SPLITS[arrays["split"]])

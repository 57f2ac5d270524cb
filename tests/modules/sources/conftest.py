import pytest

from fusekit.component import ModalitySpec
from fusekit_modules.modalities.features import FeaturesSpec
from fusekit_modules.modalities.image import ImageSpec
from fusekit_modules.modalities.label import LabelSpec
from fusekit_modules.modalities.spectrogram import SpectrogramSpec


@pytest.fixture
def digits() -> dict[str, ModalitySpec]:
    """Modalities of av_digits."""
    return {
        "image": ImageSpec(shape=(8, 8, 1)),
        "audio": SpectrogramSpec(shape=(31, 32), optional=True),
        "label": LabelSpec(classes=10),
    }


@pytest.fixture
def views() -> dict[str, ModalitySpec]:
    """Modalities of mfeat."""
    widths = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}
    return {name: FeaturesSpec(width=width) for name, width in widths.items()} | {
        "label": LabelSpec(classes=10)
    }

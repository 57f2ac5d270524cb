"""Bytes of files to raw values, by extension. Nothing is ever unpickled."""

import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fusekit.errors import DataError

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff")


def decode(extension: str, data: bytes) -> Any:
    """A raw value: `[h, w, c]` for images, an array for npy, an integer for cls, text for txt,
    whatever json holds; other extensions stay bytes.

    Raises:
      DataError: the bytes are not what the extension says.
    """
    kind = extension.lower().rsplit(".", 1)[-1]
    try:
        if kind in IMAGES:
            return decode_image(data)
        if kind == "npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        if kind == "json":
            return json.loads(data)
        if kind == "cls":
            return int(data)
        if kind == "txt":
            return data.decode()
    except (OSError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"these {len(data)} bytes are no {kind}: {error}") from error
    return data


def decode_image(data: bytes) -> NDArray[Any]:
    """An image as `[height, width, channel]`; palettes are resolved to colours."""
    with Image.open(io.BytesIO(data)) as image:
        return image_array(image)


def image_array(image: Image.Image) -> NDArray[Any]:
    """An opened image as `[height, width, channel]`."""
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode in ("1", "LA"):
        image = image.convert("L")
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]

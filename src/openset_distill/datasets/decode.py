"""One image: from the bytes of a file, or from pixels, to the uint8 square that a model sees."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageOps

from ..core.errors import DataError


def square(image: Image.Image, size: int, channels: int, *, banner: float = 0) -> np.ndarray:
    """Resizes the shorter side to `size` pixels and keeps the centre; uint8 `[size, size, channels]`.

    Bilinear with antialiasing (Pillow's own filter, whose support grows with the reduction). Only the central
    square is computed, which gives the same pixels as resizing all of it and cropping afterwards. A strip of
    `banner` pixels is cut off at the bottom first.

    Raises:
        ValueError: the image has 32-bit pixels, whose range is not known, or nothing is left of it.
    """
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips 16-bit pixels instead of scaling them
        image = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range; save it as an 8-bit image")
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if banner:
        image = image.crop((0, 0, image.size[0], max(0, math.floor(image.size[1] - banner))))
    width, height = image.size
    side = min(width, height)
    if side < 1:
        raise ValueError("nothing is left of it without its banner")
    if (width, height) != (size, size):
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image).reshape(size, size, channels)


def decode(data: bytes, size: int, channels: int, *, where: str, banner: int = 0) -> np.ndarray:
    """Decodes the file of an image to uint8 `[size, size, channels]`, upright as its EXIF tag says.

    Every part of the project that reads an image file decodes it here, so that a model sees the same pixels
    in training, in testing and afterwards.

    Raises:
        DataError: the bytes are not an image, or the image is damaged; the message names `where`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            height = image.size[1]
            # JPEG only: the decoder itself reduces a large image, to no less than twice the target
            image.draft(None, (2 * size, 2 * size))
            reduced_banner = banner * image.size[1] / height
            return square(ImageOps.exif_transpose(image), size, channels, banner=reduced_banner)
    except MemoryError:
        raise
    except Exception as error:  # damaged files make Pillow's decoders raise nearly every kind of exception
        raise DataError(
            f"{where} cannot be decoded as an image ({type(error).__name__}: {error}); "
            "replace the file or its archive with an undamaged copy, then run again"
        ) from error

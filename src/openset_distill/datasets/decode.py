"""One image: from a file, its bytes or its pixels to the uint8 array that a model sees.

Every part of the project that reads an image file decodes it here, so that a model sees the same pixels in training,
in testing and afterwards. What a file may hold, and what becomes of it:

- turned upright as its EXIF tag says; of an animation or of several pages the first picture;
- CMYK, LAB and palettes become RGB or grey;
- transparent pixels are laid on white (`GROUND`): the colours that a file hides under them are never seen;
- 16-bit pixels keep their upper 8 bits. Where none reaches 4096 they are 12-bit pixels (cameras, microscopes, X-ray
  images), which keep the upper 8 of 12;
- only the formats of `FORMATS` are opened. None of them starts another program, as PostScript would.
"""

from __future__ import annotations

import io
import os
import stat
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.errors import DataError
from ..core.text import printable

# Pillow's own decoders of pictures; others of its plugins run programs (EPS) or read what is no picture.
# AVIF came with Pillow 11.3.
Image.init()
FORMATS = tuple(
    name for name in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP") if name in Image.OPEN
)
GROUND = (255, 255, 255)
TWELVE_BITS = 4096

# what `open_image` and `decode` count in `notes`, and how a log says it of so many images
NOTES = {
    "transparent": "have transparent pixels, which are laid on white",
    "twelve_bit": "have 16-bit pixels below 4096 and are read as 12-bit images; save them as 8-bit images if they are "
    "only dark",
    "dark": "have 16-bit pixels and are nearly black; if their values end below 65535, save them as 8-bit images",
    "first_frame": "have several frames or pages, of which the first is used",
}

# how files begin that are often taken for images, and what is to be done about them
_OTHERS = (
    (b"%!PS", "a PostScript file; convert it to PNG"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file; convert it to PNG"),
    (b"%PDF", "a PDF file; convert it to PNG"),
    (b"8BPS", "a Photoshop file; export it as PNG"),
    (b"version https://git-lfs", "a Git LFS pointer, not the image itself; fetch the image with git lfs pull"),
    (b"/annex/objects", "a git-annex pointer, not the image itself; fetch the image with git annex get"),
    (b"<svg", "an SVG drawing; convert it to PNG"),
    (b"<?xml", "an XML file, perhaps an SVG drawing; convert it to PNG"),
    (b"<!DOCTYPE", "a web page, not an image; fetch the image again"),
    (b"<html", "a web page, not an image; fetch the image again"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
)
_CAMERAS = (b"heic", b"heix", b"mif1", b"msf1", b"hevc")


def open_image(
    source: bytes | str | os.PathLike,
    channels: int = 3,
    *,
    where: str | None = None,
    notes: Counter[str] | None = None,
) -> np.ndarray:
    """The image in a file, or in a file's bytes, at its full size: uint8 `[height, width, channels]`.

    Args:
        channels: 3 (RGB) or 1 (grey).
        where: the image's place for messages; a path is its own.
        notes: counts what a user should know of (`NOTES`).

    Raises:
        DataError: the file cannot be read, is no image of `FORMATS`, is damaged or too large.
    """
    where = _place(source, where)
    with _stream(source, where) as stream:
        try:
            with Image.open(stream, formats=FORMATS) as image:
                pixels = np.asarray(_plain(image, channels, notes))
        except MemoryError:
            raise
        except Exception as error:  # damaged files make Pillow's decoders raise nearly every kind of exception
            raise _refusal(error, where, stream) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def decode(
    source: bytes | str | os.PathLike,
    size: int,
    channels: int,
    *,
    where: str | None = None,
    banner: int = 0,
    notes: Counter[str] | None = None,
) -> np.ndarray:
    """The image in a file, or in a file's bytes, as a model sees it: uint8 `[size, size, channels]` (see `square`).

    Args:
        where: the image's place for messages; a path is its own.
        banner: height in pixels of a strip at the bottom that is cut off first.
        notes: counts what a user should know of (`NOTES`).

    Raises:
        DataError: as `open_image`.
    """
    where = _place(source, where)
    with _stream(source, where) as stream:
        try:
            with Image.open(stream, formats=FORMATS) as image:
                # never `draft`, in which JPEG's decoder reduces the image itself: pixels would differ from those of the
                # same image in memory
                return square(_plain(image, channels, notes), size, channels, banner=banner)
        except MemoryError:
            raise
        except Exception as error:
            raise _refusal(error, where, stream) from error


def square(image: Image.Image, size: int, channels: int, *, banner: int = 0) -> np.ndarray:
    """Resizes the shorter side to `size` pixels and keeps the centre; uint8 `[size, size, channels]`.

    Bilinear with antialiasing (Pillow's own filter, whose support grows with the reduction). Only the central
    square is computed, which gives the same pixels as resizing all of it and cropping afterwards. A strip of
    `banner` pixels is cut off at the bottom first.

    Raises:
        ValueError: the image has 32-bit pixels, whose range is not known, or nothing is left of it.
    """
    image = _plain(image, channels, None)
    if banner:
        image = image.crop((0, 0, image.size[0], max(0, image.size[1] - banner)))
    width, height = image.size
    side = min(width, height)
    if side < 1:
        raise ValueError("nothing is left of it without its banner")
    if (width, height) != (size, size):
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image).reshape(size, size, channels)


# ------------------------------------------------------------------------------------------- kinds of pixels


def _plain(image: Image.Image, channels: int, notes: Counter[str] | None) -> Image.Image:
    """`image` upright, opaque, of 8 bits, in mode RGB or L."""
    mode = "L" if channels == 1 else "RGB"
    if type(image) is Image.Image and image.mode == mode and not image.info:
        return image  # pixels, not a file
    found = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # a camera's MPO has previews as further frames
        found.append("first_frame")
    sixteen_bit = any("16" in str(tile[-1]) for tile in getattr(image, "tile", ()))
    hidden, kind = image.has_transparency_data, image.format
    clear = image.info.get("transparency")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        # Pillow's own conversion clips 16-bit pixels instead of scaling them
        values = np.asarray(image).astype(np.uint16)
        is_short = image.mode != "I" and 0 < values.max() < TWELVE_BITS
        grey = (values >> (4 if is_short else 8)).astype(np.uint8)
        if is_short:
            found.append("twelve_bit")
        if hidden and isinstance(clear, int) and (values == clear).any():
            grey[values == clear] = GROUND[0]
            found.append("transparent")
        image, hidden = Image.fromarray(grey), False
    elif image.mode in ("I", "F"):
        raise _Range(f"pixels of mode {image.mode} have no known range; save it as an 8-bit image")
    elif sixteen_bit and isinstance(clear, tuple):  # Pillow keeps the upper bits of colours alone
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    if image.mode == "LAB":
        image = _from_lab(image)
    if hidden:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            found.append("transparent")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*GROUND, 255)), image)
        image = image.convert("RGB")
    image.info.pop("transparency", None)
    if image.mode != mode:
        image = image.convert(mode)
    if sixteen_bit and 0 < int(np.asarray(image).max()) < 16:
        found.append("dark")
    if notes is not None:
        notes.update(found)
    return image


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # rarely needed

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    return image if converted is None else converted  # None where an image is changed in place


class _Range(ValueError):
    """The pixels have no range that is known."""


# ---------------------------------------------------------------------------------------- files and messages


def _place(source: bytes | str | os.PathLike, where: str | None) -> str:
    return printable(where or ("the image" if isinstance(source, bytes) else os.fsdecode(source)))


def _stream(source: bytes | str | os.PathLike, where: str) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        problem = special(source)  # opening a fifo would wait for its writer for ever
        if problem is None:
            return open(source, "rb")
    except OSError as error:
        if isinstance(error, FileNotFoundError) and Path(source).is_symlink():
            raise DataError(
                f"{where} is a link to a file that is not there; fetch the file (git annex get, dvc pull)"
            ) from error
        raise DataError(
            f"{where} cannot be read: {error.strerror or error}; restore the file, or correct the path"
        ) from error
    raise DataError(f"{where} is {problem}, not an image file; remove it, or name the file you mean")


def special(path: str | os.PathLike) -> str | None:
    """What `path` is where it is no regular file (links followed): "a folder", "a fifo", ...; None for a file.

    Raises:
        OSError: it is not there or cannot be looked at.
    """
    mode = os.stat(path).st_mode
    kinds = {
        stat.S_IFREG: None,
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe (fifo)",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def _refusal(error: Exception, where: str, stream: BinaryIO) -> DataError:
    """The true cause of a failure to decode, and what helps."""
    if isinstance(error, _Range):
        return DataError(f"{where} cannot be decoded as an image: {error}")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return DataError(
            f"{where} has more pixels than are decoded (the most is {most} million); save a smaller copy in its place"
        )
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"{where} {_unidentified(stream)}")
    return DataError(
        f"{where} cannot be decoded as an image ({type(error).__name__}: {printable(str(error))}); "
        "replace the file or its archive with an undamaged copy, then run again"
    )


def _unidentified(stream: BinaryIO) -> str:
    stream.seek(0)
    start = stream.read(256)
    if not start:
        return "is empty (0 bytes) and cannot be decoded as an image; restore it, or remove it"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, remedy in _OTHERS:
        if text.startswith(magic.lower()):
            return f"cannot be decoded as an image: it is {remedy}"
    if start[4:8] == b"ftyp" and start[8:12] in _CAMERAS:
        return "cannot be decoded as an image: it is a HEIC photograph; convert it to JPEG"
    if start[128:132] == b"DICM":
        return "cannot be decoded as an image: it is a DICOM file; convert it to PNG"
    if not start.strip(b"\0"):
        return "cannot be decoded as an image: it holds only zeros, as after a crash; restore it from a copy"
    return (
        f"cannot be decoded as an image: it is of no format that is read ({', '.join(FORMATS)}), or damaged at its "
        "start; convert it to PNG, or replace it with an undamaged copy"
    )

"""Images from wherever a user has them: files, folders, archives, patterns, lists, memory.

Everything is streamed: what waits in memory does not grow with the number of images.
"""

from __future__ import annotations

import glob
import io
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ..core.errors import DataError, nearest
from ..core.text import printable
from ..datasets.archives import open_archive
from ..datasets.decode import decode, square
from ..datasets.folders import LEFTOVERS, Kind, each, leftover
from ..datasets.index import available_cores
from ..datasets.readers import ARCHIVE_SUFFIXES, IMAGE_SUFFIXES
from .description import Preprocessing

# pixels of one batch: enough to keep the cores busy, few enough that the first answers come at once
_BATCH_PIXELS = 2**21
_LARGEST_BATCH = 128
_DECODING = threading.Lock()


@dataclass(frozen=True)
class Source:
    """One image that was found, or (with `error`) the reason why there is none.

    `name`: how it is called in answers; `folder`: the folder below the one that was named, which may be its class;
    `contents`: gives the bytes of the file, or the image itself.
    """

    name: str
    contents: Callable[[], bytes | Image.Image | np.ndarray]
    folder: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Decoded:
    """One image as the network is given it: uint8 `[size, size, channels]`; `thumbnail` is a small JPEG, or empty."""

    name: str
    folder: str
    pixels: np.ndarray = field(repr=False)
    thumbnail: bytes = field(repr=False, default=b"")


@dataclass(frozen=True)
class Failure:
    """An image that cannot be read, and why, in one line."""

    name: str
    message: str


# -------------------------------------------------------------------------------------------------- find


def find_images(paths: Iterable[str | os.PathLike]) -> Iterator[Source]:
    """The images that paths stand for, in the order of the paths: files, folders, archives, and patterns with `*`.

    In folders (at any depth, links followed once) and archives, whatever has the suffix of an image counts. A file
    that is named itself always counts. What cannot be opened is a source with an `error`.
    """
    for path in paths:
        yield from _find(os.fspath(path))


def _find(path: str) -> Iterator[Source]:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        found = glob.glob(path, recursive=True) if glob.has_magic(path) else []
        matches = sorted(match for match in found if not LEFTOVERS.keys() & set(match.lower().split("/")))
        if matches:
            for match in matches:
                yield from _find(match)
        else:
            what = "matches nothing" if glob.has_magic(path) else f"cannot be opened: {error.strerror}"
            yield _missing(path, f"{what}; check the path")
        return
    except ValueError as error:  # a zero byte in the path
        yield _missing(path, f"is no path: {error}")
        return
    if stat.S_ISDIR(mode):
        yield from _in_folder(path)
    elif path.lower().endswith(ARCHIVE_SUFFIXES):
        yield from _in_archive(path)
    elif stat.S_ISREG(mode):
        yield _file(path, "")
    else:
        yield _missing(path, "is no regular file; name an image, a folder or an archive")


def _in_folder(path: str) -> Iterator[Source]:
    found = False
    for kind, name, words in each(path, apart=1):
        last = name.rpartition("/")[2]  # empty for a folder
        # what has no suffix may be a link to a folder of images
        if kind is Kind.PROBLEM and (is_image(name) or "." not in last):
            yield Source(os.path.join(path, name), _nothing, error=f"{words}; fetch it, or change its permissions")
        elif kind is Kind.FILE and is_image(name):
            yield _file(os.path.join(path, name), _first_folder(name))
        else:
            continue
        found = True
    if not found:
        yield _missing(path, f"has no images ({', '.join(sorted(IMAGE_SUFFIXES))}); name another folder")


def _in_archive(path: str) -> Iterator[Source]:
    found = False
    try:
        with open_archive(path) as archive:
            for member in archive:
                parts = member.name.split("/")
                if not is_image(member.name) or any(map(leftover, parts)):
                    continue
                found = True
                # a member of a tar archive can be read once, before the next one: read here, not by a worker
                contents = member.read()
                yield Source(f"{path}/{member.name}", lambda contents=contents: contents, _first_folder(member.name))
    except DataError as error:
        yield Source(path, _nothing, error=str(error))
        return
    if not found:
        yield _missing(path, "has no images; name another archive")


def is_image(name: str) -> bool:
    """Whether a file has the suffix of an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _first_folder(relative: str) -> str:
    folder, separator, _ = relative.partition("/")
    return folder if separator else ""


def _file(path: str, folder: str) -> Source:
    def contents() -> bytes:
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{printable(path)} cannot be read: {error.strerror}; check its permissions") from error

    return Source(path, contents, folder)


def _nothing() -> bytes:
    return b""


def _missing(path: str, why: str) -> Source:
    return Source(path, _nothing, error=f"{printable(path)} {why}")


# ------------------------------------------------------------------------------------------------ in memory


def sources_of(images: Any) -> Iterable[Source]:
    """What the Python interface is given, as sources: paths, PIL images, arrays or tensors, one or several.

    Raises:
        DataError: something else was given, or an array has a shape that is no image's.
    """
    if isinstance(images, (str, os.PathLike)):
        return find_images([images])
    if isinstance(images, Image.Image):
        return [Source("0", lambda: images)]
    array = _as_array(images)
    if array is not None:
        batch = array if array.ndim == 4 else array[None]
        return [Source(str(number), lambda pixels=pixels: pixels) for number, pixels in enumerate(batch)]
    if not isinstance(images, Iterable):
        raise DataError(f"{type(images).__name__} is not an image; give paths, PIL images, arrays or tensors")
    return _several(images)


def _several(images: Iterable[Any]) -> Iterator[Source]:
    for number, image in enumerate(images):
        for source in sources_of(image):
            in_memory = not isinstance(image, (str, os.PathLike))
            yield Source(str(number), source.contents) if in_memory else source


def _as_array(images: Any) -> np.ndarray | None:
    """An array or tensor as `[height, width]`, `[height, width, channels]` or a batch of these; None for others."""
    if type(images).__module__.partition(".")[0] == "torch":
        array = images.detach().cpu().numpy()
        if array.ndim in (3, 4):
            array = np.moveaxis(array, -3, -1)  # torch has channels first
    elif isinstance(images, np.ndarray):
        array = images
    else:
        return None
    if array.ndim not in (2, 3, 4):
        raise DataError(
            f"an array of shape {list(array.shape)} is not an image; "
            "give [height, width], [height, width, channels] or a batch of these"
        )
    return array


# --------------------------------------------------------------------------------------------------- decode


def decoded_batches(
    sources: Iterable[Source],
    preprocessing: Preprocessing,
    *,
    failed: list[Failure] | None = None,
    thumbnails: int = 0,
    workers: int | None = None,
) -> Iterator[list[Decoded]]:
    """Images in batches, in order, decoded by threads while the batches before are worked on.

    Args:
        failed: where images that cannot be read are noted; without it the first one is raised.
        thumbnails: longest side of the thumbnails; 0 for none.
        workers: threads.

    Raises:
        DataError: an image cannot be read, and `failed` is not given.
    """
    size = min(_LARGEST_BATCH, max(8, _BATCH_PIXELS // preprocessing.image_size**2))
    waiting: deque[tuple[Source, Future[Decoded]]] = deque()
    batch: list[Decoded] = []
    remaining = iter(sources)
    with ThreadPoolExecutor(workers or available_cores(), thread_name_prefix="decode") as pool:
        try:
            while True:
                while len(waiting) < 2 * size and (source := next(remaining, None)) is not None:
                    waiting.append((source, pool.submit(_decode, source, preprocessing, thumbnails)))
                if not waiting:
                    break
                source, future = waiting.popleft()
                try:
                    batch.append(future.result())
                except DataError as error:
                    if failed is None:
                        raise
                    failed.append(Failure(source.name, str(error)))
                if len(batch) == size:
                    yield batch
                    batch = []
            if batch:
                yield batch
        finally:
            for _, future in waiting:
                future.cancel()


def _decode(source: Source, preprocessing: Preprocessing, thumbnails: int) -> Decoded:
    if source.error:
        raise DataError(source.error)
    size, channels = preprocessing.image_size, preprocessing.channels
    contents = source.contents()
    if isinstance(contents, bytes):
        pixels = decode(contents, size, channels, where=printable(source.name))
    elif isinstance(contents, Image.Image):
        pixels = _square_picture(contents, size, channels, where=f"image {source.name}")
    else:
        pixels = square_array(contents, size, channels, where=f"image {source.name}")
    thumbnail = _thumbnail(contents, pixels, thumbnails) if thumbnails else b""
    return Decoded(source.name, source.folder, pixels, thumbnail)


def _square_picture(image: Image.Image, size: int, channels: int, *, where: str) -> np.ndarray:
    """A PIL image as uint8 `[size, size, channels]`: the very pixels that its file has for `decode`.

    Raises:
        DataError: it cannot be decoded, or has pixels without a known range.
    """
    # PIL decodes an opened file at its first use, and the same image may be given twice
    with _DECODING if getattr(image, "tile", None) else nullcontext():
        try:
            return square(image, size, channels)
        except MemoryError:
            raise
        except Exception as error:  # as in `decode`
            raise DataError(
                f"{where} cannot be read ({printable(str(error))}); convert it to RGB or leave it out"
            ) from error


def square_array(array: np.ndarray, size: int, channels: int, *, where: str) -> np.ndarray:
    """One image in memory as uint8 `[size, size, channels]`: resized as a file would be.

    Args:
        array: `[height, width]` or `[height, width, channels]`; uint8, or floats from 0 to 1.

    Raises:
        DataError: another number of channels, numbers out of range, or no pixels.
    """
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[-1] != channels:
        kind = "grey images (1 channel)" if channels == 1 else "RGB images (3 channels)"
        raise DataError(
            f"{where} has {array.shape[-1]} channels (shape {list(array.shape)}), and the model takes {kind}; "
            "convert it; arrays have channels last, tensors first"
        )
    if array.dtype != np.uint8:
        # a NaN is not within the range either
        within = np.issubdtype(array.dtype, np.floating) and bool(((array >= 0) & (array <= 1)).all())
        if not within:
            raise DataError(f"{where} has pixels of type {array.dtype} that are not floats from 0 to 1; give uint8")
        array = np.rint(array * 255).astype(np.uint8)
    if not array.size:
        raise DataError(f"{where} has no pixels (shape {list(array.shape)}); leave it out")
    if array.shape[:2] == (size, size):
        return np.ascontiguousarray(array)
    return square(Image.fromarray(array[..., 0] if channels == 1 else array), size, channels)


def _thumbnail(contents: bytes | Image.Image | np.ndarray, pixels: np.ndarray, side: int) -> bytes:
    """A small JPEG of the central square that the network sees, as sharp as the file has it."""
    if isinstance(contents, bytes):
        pixels = decode(contents, side, 3, where="thumbnail")
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=80)
    return stream.getvalue()


def classes_of(folder: str | os.PathLike, known: Sequence[str]) -> list[str]:
    """The class folders of a folder of known images, which must be classes that the model has.

    Returns:
        names of the class folders; none where the images lie in the folder itself.

    Raises:
        DataError: a folder has the name of no class of the model.
    """
    path = Path(folder)
    if not path.is_dir():
        return []
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check its permissions") from error
    names = [entry.name for entry in entries if entry.is_dir() and not leftover(entry.name)]
    foreign = [name for name in names if name not in known]
    if foreign:
        if {"train", "test"} & set(foreign):
            remedy = f"name the folder that holds the class folders, for example {path / 'test'}"
        else:
            remedy = f"rename it, or give images of other things with --unknown; {nearest(foreign[0], known)}"
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise DataError(
            f"{path} has the class folder {printable(foreign[0])!r}{more}, which is not a class of the model; {remedy}"
        )
    return names

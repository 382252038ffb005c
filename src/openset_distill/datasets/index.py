"""Datasets too large to decode in advance (ImageNet): an index of where each image lies, decoded when asked for.

An index is a structured array with one record an image: `path` (bytes, relative to the folder of the raw data),
`offset` and `size` in bytes. Images inside tar archives are read in place, so that nothing has to be unpacked;
a file of its own has offset 0 and size -1 (all of it).
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from .decode import decode
from .folders import leftover

Record = tuple[str, int, int]


@dataclass(frozen=True)
class Indexed:
    """Images by index: `records` as described above, with paths relative to `root`."""

    root: Path
    records: np.ndarray

    @classmethod
    def of(cls, root: Path, records: Iterable[Record]) -> Indexed:
        """An index from (path, offset, size) triples."""
        rows = [(path.encode(), offset, size) for path, offset, size in records]
        longest = max((len(path) for path, _, _ in rows), default=1)
        return cls(root, np.array(rows, dtype=[("path", f"S{longest}"), ("offset", "<i8"), ("size", "<i8")]))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def source(self) -> str:
        """Where the images are, for messages."""
        return str(self.root)

    def where(self, index: int) -> str:
        """The image's place, for messages."""
        path, offset, size = self.records[index].item()
        place = str(self.root / path.decode())
        return place if size < 0 else f"{place}: the image at byte {offset}"

    def read(self, index: int) -> bytes:
        """The file of image `index`.

        Raises:
            DataError: it cannot be read.
        """
        path, offset, size = self.records[index].item()
        try:
            with open(self.root / path.decode(), "rb") as stream:
                stream.seek(offset)
                data = stream.read(size)
        except OSError as error:
            raise DataError(
                f"{self.where(index)} cannot be read: {error.strerror or error}; restore the file, or prepare again"
            ) from error
        if size >= 0 and len(data) != size:
            raise DataError(f"{self.where(index)} is cut off; fetch the archive again, then prepare again")
        return data


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class StreamedImages:
    """One part of an indexed dataset: like `prepared.Images`, decoded by a pool of threads when a batch is asked for.

    `labels`: int64 `[n]`; `size`, `channels`: of the decoded images. Pillow decodes and resizes outside of Python's
    global lock, so that threads use all cores.
    """

    source: Indexed
    labels: np.ndarray
    size: int
    channels: int
    workers: int = field(default_factory=available_cores)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return self.size, self.size, self.channels

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.workers, thread_name_prefix="decode")

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, uint8 `[len(indices), height, width, channels]`.

        Raises:
            DataError: an image cannot be read or decoded.
        """
        images = np.empty((len(indices), *self.shape), np.uint8)

        def decode_into(position: int) -> None:
            index = int(indices[position])
            data = self.source.read(index)
            images[position] = decode(data, self.size, self.channels, where=self.source.where(index))

        for _ in self._pool.map(decode_into, range(len(indices))):
            pass
        return images


def tar_records(root: Path, path: str) -> Iterator[tuple[str, Record]]:
    """(member name, record) of every file in an uncompressed tar archive, and of those in tar archives inside it.

    The name of a member of an inner archive is `inner.tar/member`.

    Raises:
        DataError: the archive is damaged, cut off or compressed.
    """
    try:
        total = (root / path).stat().st_size
        with open(root / path, "rb") as stream:
            for name, offset, size in _tar_members(stream):
                if offset + size > total:
                    raise DataError(f"{root / path} is cut off inside {name}; fetch the archive again")
                yield name, (path, offset, size)
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{root / path} cannot be read as an uncompressed tar archive ({error}); fetch the archive again"
        ) from error


def _tar_members(stream) -> Iterator[tuple[str, int, int]]:
    # `tarfile` counts offsets from the start of the file, wherever an inner archive starts in it
    opened: Any = tarfile.TarFile(fileobj=stream)  # no type knows its `members`
    with opened as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # it keeps every header, which is much for a million images
            if not member.isfile():
                continue
            if not member.name.endswith(".tar"):
                yield member.name, member.offset_data, member.size
                continue
            position = stream.tell()
            stream.seek(member.offset_data)
            for name, offset, size in _tar_members(stream):
                yield f"{member.name}/{name}", offset, size
            stream.seek(position)


def folder_records(root: Path, folder: str) -> Iterator[tuple[str, Record]]:
    """(class name, record) of every image file in `root/folder/<class>/`, sorted.

    Raises:
        DataError: a class folder has no files.
    """
    for class_folder in sorted(os.scandir(root / folder), key=lambda entry: entry.name):
        if not class_folder.is_dir() or leftover(class_folder.name):
            continue
        names = sorted(entry.name for entry in os.scandir(class_folder.path) if not leftover(entry.name))
        if not names:
            raise DataError(f"{class_folder.path} has no images; add some or remove the folder")
        for name in names:
            yield class_folder.name, (f"{folder}/{class_folder.name}/{name}", 0, -1)

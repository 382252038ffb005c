"""Prepared datasets: every image decoded once into memory-mapped uint8 arrays.

A prepared folder holds `train_images.npy` and `test_images.npy` (uint8 `[n, size, size, channels]`),
`train_labels.npy` and `test_labels.npy` (int64 `[n]`) and `manifest.json`, which is written last:
a folder with a manifest is complete. Datasets of ImageNet's scale are not decoded in advance: their
`*_images.npy` hold an index (see `index`), and the manifest says `"storage": "index"`.

Of a user's own images the folder also holds `test_files.json`: the file of each test image, in the order of
`test_images.npy`, as a path relative to the folder or archive of the images (`read_test_files`). The manifest names it
under `test_files`, with its SHA-256. `notes` of the manifest is what the log of the preparation says about the images.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, OpenSetError
from ..core.files import read_json, sha256, unreadable, write_json
from .index import Indexed, StreamedImages

PARTS = ("train", "test")
FORMAT = 1
MANIFEST = "manifest.json"
TEST_FILES = "test_files.json"
DATA_FILES = tuple(f"{part}_{kind}.npy" for part in PARTS for kind in ("images", "labels"))


@dataclass(frozen=True)
class Images:
    """One part of a dataset, in memory or memory-mapped.

    `images`: uint8 `[n, height, width, channels]`; `labels`: int64 `[n]`, class ids.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        return self.images.shape[1:]

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices` as a new array, uint8 `[len(indices), height, width, channels]`."""
        return self.images[np.asarray(indices, dtype=np.int64)]


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset. `classes` holds the class names in label order."""

    name: str
    classes: tuple[str, ...]
    train: Images | StreamedImages
    test: Images | StreamedImages
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def identity(self) -> str:
        """A hash of all images and labels, from the checksums of the manifest: equal for equal prepared data."""
        described = {key: self.manifest.get(key) for key in ("classes", "files", "storage", "root", "index_sha256")}
        described["sources"] = self.manifest.get("sources") if described["storage"] == "index" else None
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def open_prepared(folder: str | os.PathLike) -> PreparedDataset:
    """Opens a prepared folder, memory-mapped: nothing but the labels is read.

    Files whose size or time of change is not that of the last check are compared with the checksums of the manifest
    before they are used (`verify`).

    Raises:
        DataError: the folder is not prepared, or a file in it is damaged, changed or does not fit the manifest.
    """
    folder = Path(folder)
    remedy = f"delete the folder {folder} and prepare the dataset again"
    if not (folder / MANIFEST).exists():
        raise DataError(f"{folder} holds no prepared dataset ({MANIFEST} is missing); prepare the dataset first")
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        _check_manifest(manifest)
        name, size, channels = manifest["dataset"], manifest["size"], manifest["channels"]
        classes = tuple(manifest["classes"])
        counts = {part: manifest["counts"][part] for part in PARTS}
        storage = manifest["storage"]
    except OSError as error:
        raise DataError(unreadable(folder / MANIFEST, error, remedy)) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error}); {remedy}") from error
    if manifest["format"] != FORMAT:
        raise DataError(f"{folder} has format {manifest['format']}, this version reads format {FORMAT}; {remedy}")
    if file_status(folder, remedy) != _last_check(folder, manifest):
        _verify(folder, manifest, remedy)
    if storage == "index":
        _check_archives(manifest, remedy)
    parts = {}
    for part in PARTS:
        images_path = folder / f"{part}_images.npy"
        labels = _load(folder / f"{part}_labels.npy", np.int64, (counts[part],), remedy)
        if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
            raise DataError(f"{folder / f'{part}_labels.npy'} has labels outside 0..{len(classes) - 1}; {remedy}")
        if storage == "index":
            records = _load(images_path, None, (counts[part],), remedy)
            parts[part] = StreamedImages(Indexed(Path(manifest["root"]), records), labels, size, channels)
        else:
            parts[part] = Images(_load(images_path, np.uint8, (counts[part], size, size, channels), remedy), labels)
    return PreparedDataset(name, classes, parts["train"], parts["test"], manifest)


def _check_manifest(manifest: Any) -> None:
    """Raises a ValueError, KeyError or TypeError for a manifest that does not say what this module writes."""
    for key in ("size", "channels", "format"):
        if not isinstance(manifest[key], int) or not 0 < manifest[key] <= 65_536:
            raise ValueError(f"{key} is {manifest[key]!r}")
    texts = [manifest["dataset"], *manifest["classes"], *manifest["test_only_classes"]]
    texts += [manifest["files"][file] for file in DATA_FILES] + [manifest["storage"]]
    if not all(isinstance(text, str) for text in texts) or isinstance(manifest["classes"], str):
        raise ValueError("dataset, storage, classes and checksums must be text")
    if not all(isinstance(manifest["counts"][part], int) and manifest["counts"][part] >= 0 for part in PARTS):
        raise ValueError(f"counts are {manifest['counts']!r}")
    if manifest["storage"] == "index":
        Path(manifest["root"])
        [(Path(source["name"]), int(source["bytes"])) for source in manifest["sources"]]


def verify(folder: str | os.PathLike) -> None:
    """Compares every byte of a prepared folder with the checksums of its manifest.

    Raises:
        DataError: as `open_prepared`.
    """
    manifest = open_prepared(folder).manifest
    _verify(Path(folder), manifest, f"delete the folder {folder} and prepare the dataset again")


def _verify(folder: Path, manifest: Mapping[str, Any], remedy: str) -> None:
    status = file_status(folder, remedy)
    for file in DATA_FILES:
        try:
            found = sha256(folder / file)
        except OSError as error:
            raise DataError(unreadable(folder / file, error, remedy)) from error
        if found != manifest["files"][file]:
            raise DataError(
                f"{folder / file} is not what was prepared: its checksum differs from that of {MANIFEST}; {remedy}"
            )
    remember_check(folder, manifest, status)


def _check_archives(manifest: Mapping[str, Any], remedy: str) -> None:
    """Archives behind an index that changed their size are other archives; offsets into them lead nowhere."""
    for source in manifest["sources"]:
        path = Path(manifest["root"]) / source["name"]
        if path.is_file() and path.stat().st_size != source["bytes"]:
            raise DataError(f"{path} has changed since its images were listed; {remedy}")


# Sizes and times of the files at the last check lie next to the folder: they differ from copy to copy of the same data.


def file_status(folder: Path, remedy: str) -> dict[str, list[int]]:
    """Size and time of change of each data file."""
    status = {}
    for file in DATA_FILES:
        try:
            found = (folder / file).stat()
        except OSError as error:
            raise DataError(unreadable(folder / file, error, remedy)) from error
        status[file] = [found.st_size, found.st_mtime_ns]
    return status


def _checked_file(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.checked"


def _last_check(folder: Path, manifest: Mapping[str, Any]) -> dict[str, list[int]] | None:
    """What `file_status` was when the files had the checksums of this manifest; None where it is unknown."""
    try:
        kept = json.loads(_checked_file(folder).read_text(encoding="utf-8"))
        return kept["status"] if kept["files"] == manifest["files"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def remember_check(folder: Path, manifest: Mapping[str, Any], status: Mapping[str, list[int]]) -> None:
    """Records that the files had the checksums of `manifest` when `file_status` was `status`."""
    # in a folder that is only read, the next call checks again
    with contextlib.suppress(OpenSetError):
        write_json(_checked_file(folder), {"files": manifest["files"], "status": status})


def _load(path: Path, dtype: type | None, shape: tuple[int, ...], remedy: str) -> np.ndarray:
    """An array that must have this shape and type (None: records of an index); all but labels memory-mapped."""
    try:
        array = np.load(path, mmap_mode=None if dtype is np.int64 else "r", allow_pickle=False)
    except OSError as error:
        raise DataError(unreadable(path, error, remedy)) from error
    except (ValueError, EOFError, TypeError, SyntaxError, OverflowError, MemoryError) as error:
        raise DataError(f"{path} is damaged ({' '.join(str(error).split())}); {remedy}") from error
    if not isinstance(array, np.ndarray):  # an archive of arrays
        raise DataError(f"{path} holds several arrays; {remedy}")
    right_type = array.dtype.names == ("path", "offset", "size") if dtype is None else array.dtype == dtype
    if not right_type or array.shape != shape:
        expected = "an index" if dtype is None else np.dtype(dtype)
        raise DataError(
            f"{path} holds {array.dtype} {list(array.shape)} where its manifest says {expected} {list(shape)}; {remedy}"
        )
    return array


def read_test_files(folder: str | os.PathLike) -> list[str] | None:
    """The file of each test image of a prepared folder, relative to the user's folder or archive of images.

    None where the dataset is no user's own: its images have no files, or names that say nothing. A name that is no
    UTF-8 has its bytes as Python's file functions give and take them.

    Raises:
        DataError: the list is missing, or is not the one of this folder.
    """
    folder = Path(folder)
    manifest = read_json(folder / MANIFEST)
    told = manifest.get("test_files")
    if told is None:
        return None
    path = folder / told["file"]
    if not path.is_file() or sha256(path) != told["sha256"]:
        raise DataError(
            f"{path} is missing or is not the list of this dataset's files; "
            f"delete the folder {folder} and prepare the dataset again"
        )
    return read_json(path)

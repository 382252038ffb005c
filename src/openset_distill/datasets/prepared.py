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
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from .. import __version__
from ..core.errors import DataError, OpenSetError
from ..core.files import read_json, sha256, unreadable, write_json
from ..core.text import printable
from .archives import open_archive
from .decode import NOTES, decode, square
from .folders import refused, shortened, walk
from .index import Indexed, StreamedImages
from .readers import Files, Part, Pixels, RawDataset

PARTS = ("train", "test")
FORMAT = 1
MANIFEST = "manifest.json"
TEST_FILES = "test_files.json"
DATA_FILES = tuple(f"{part}_{kind}.npy" for part in PARTS for kind in ("images", "labels"))

# One task: large enough to hide the cost of a message between processes, small enough that little is lost when a run
# is killed, and that the tasks which carry their images' bytes fit into memory.
CHUNK = 256
CHUNK_BYTES = 16 * 1024**2


# -------------------------------------------------------------------------------------- prepared datasets


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
    if _status(folder, remedy) != _last_check(folder, manifest):
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
    status = _status(folder, remedy)
    for file in DATA_FILES:
        try:
            found = sha256(folder / file)
        except OSError as error:
            raise DataError(unreadable(folder / file, error, remedy)) from error
        if found != manifest["files"][file]:
            raise DataError(
                f"{folder / file} is not what was prepared: its checksum differs from that of {MANIFEST}; {remedy}"
            )
    _remember(folder, manifest, status)


def _check_archives(manifest: Mapping[str, Any], remedy: str) -> None:
    """Archives behind an index that changed their size are other archives; offsets into them lead nowhere."""
    for source in manifest["sources"]:
        path = Path(manifest["root"]) / source["name"]
        if path.is_file() and path.stat().st_size != source["bytes"]:
            raise DataError(f"{path} has changed since its images were listed; {remedy}")


# Sizes and times of the files at the last check lie next to the folder: they differ from copy to copy of the same data.


def _status(folder: Path, remedy: str) -> dict[str, list[int]]:
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
    """What `_status` was when the files had the checksums of this manifest; None where nobody knows."""
    try:
        kept = json.loads(_checked_file(folder).read_text(encoding="utf-8"))
        return kept["status"] if kept["files"] == manifest["files"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _remember(folder: Path, manifest: Mapping[str, Any], status: Mapping[str, list[int]]) -> None:
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


# ------------------------------------------------------------------------------------------------ writing


def write(
    raw: RawDataset,
    folder: str | os.PathLike,
    *,
    name: str,
    size: int,
    channels: int | None = None,
    workers: int = 1,
    licence: str = "",
) -> dict[str, Any]:
    """Prepares `raw` as `folder` and returns its manifest.

    Restartable: finished chunks of a run that was killed are kept in a hidden `.partial` sibling and not done
    again. Two processes that prepare the same folder at once both succeed: the second waits and finds the
    work done. `channels` is as the dataset has it unless given (1 = grey, 3 = RGB).

    Raises:
        DataError: labels out of range, a class without any image, an image or archive that cannot be read,
            a folder that cannot be written, a disk that is full.
    """
    folder = Path(folder)
    channels = channels or raw.channels
    counts = {part: len(getattr(raw, part).labels) for part in PARTS}
    per_class = {part: _count_classes(getattr(raw, part), part, raw.classes) for part in PARTS}
    for label, class_name in enumerate(raw.classes):
        if not any(per_class[part][label] for part in PARTS):
            raise DataError(f"dataset {name}: class {class_name!r} has no images; add some or remove the class")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            identity = {
                "format": FORMAT,
                "library_version": __version__,
                "dataset": name,
                "size": size,
                "channels": channels,
                "classes": list(raw.classes),
                "counts": counts,
                **(
                    _index_identity(raw, raw.train.images, raw.test.images)
                    if isinstance(raw.train.images, Indexed) and isinstance(raw.test.images, Indexed)
                    else {"storage": "pixels", "sources": [_fingerprint(path) for path in raw.sources]}
                ),
            }
            finished = _finished(folder, identity)
            if finished is not None:
                return finished
            partial = folder.parent / f".{folder.name}.partial"
            with _Journal(partial, identity) as journal:
                notes = _fill(raw, partial, journal, identity, workers)
            if raw.users_own:
                notes += _twice(raw, partial)
            manifest = {
                **identity,
                "per_class": per_class,
                "missing_classes": [
                    class_name
                    for label, class_name in enumerate(raw.classes)
                    if not per_class["train"][label] and class_name not in raw.test_only
                ],
                "test_only_classes": list(raw.test_only),
                "licence": licence,
                "notes": [*raw.notes, *notes],
                "files": {file: sha256(partial / file) for file in DATA_FILES},
            }
            folder.mkdir(exist_ok=True)
            (folder / MANIFEST).unlink(missing_ok=True)  # while files are exchanged the folder is not complete
            if raw.users_own and isinstance(raw.test.images, Files):
                write_json(folder / TEST_FILES, list(raw.test.images.names))
                manifest["test_files"] = {"file": TEST_FILES, "sha256": sha256(folder / TEST_FILES)}
            for file in DATA_FILES:
                (partial / file).replace(folder / file)
            write_json(folder / MANIFEST, manifest)
            _remember(folder, manifest, _status(folder, "run again"))
            _remove(partial)
            return manifest
    except OSError as error:
        raise DataError(
            f"cannot prepare {name} in {folder}: {error.strerror or error}; "
            "choose a folder that you may write to, with free space, then run again (finished work is kept)"
        ) from error


def _fingerprint(path: Path) -> dict[str, Any]:
    """Name, size in bytes and SHA-256 of a source; for a folder the hash of its list of files with sizes and times of
    change, since reading all of them would take as long as decoding them."""
    if not path.is_dir():
        return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}
    listing, total = hashlib.sha256(), 0
    for name in walk(path).names:
        status = (path / name).stat()
        total += status.st_size
        listing.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return {"name": path.name, "bytes": total, "listing_sha256": listing.hexdigest()}


def _index_identity(raw: RawDataset, train: Indexed, test: Indexed) -> dict[str, Any]:
    """What an index was made of: the hash of the index, and size and time of the archives (their contents would take
    many minutes to hash)."""
    digest = hashlib.sha256()
    for images, labels in ((train, raw.train.labels), (test, raw.test.labels)):
        digest.update(images.records.tobytes() + labels.tobytes())
    status = [(path.name, path.stat()) for path in raw.sources]
    return {
        "storage": "index",
        "root": train.root.as_posix(),
        "index_sha256": digest.hexdigest(),
        "sources": [{"name": name, "bytes": of.st_size, "modified_ns": of.st_mtime_ns} for name, of in status],
    }


def _count_classes(part: Part, part_name: str, classes: tuple[str, ...]) -> list[int]:
    if len(part.labels) != len(part.images):
        raise DataError(
            f"{part.images.source}: the {part_name} part has {len(part.images)} images and {len(part.labels)} labels; "
            "the archive is damaged: fetch it again"
        )
    wrong = np.flatnonzero((part.labels < 0) | (part.labels >= len(classes)))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{part.images.where(first)} ({part_name}) has label {part.labels[first]}, but the dataset has "
            f"{len(classes)} classes (0..{len(classes) - 1}); the labels are damaged: fetch the archive again"
        )
    return np.bincount(part.labels, minlength=len(classes)).tolist()


def _finished(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of `folder` when it already holds exactly this preparation."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = dict(open_prepared(folder).manifest)
    except DataError:
        return None
    return manifest if all(manifest.get(key) == value for key, value in identity.items()) else None


class _Journal:
    """Which images of a preparation are done: one JSON line a finished chunk, after a line of what is prepared.

    A chunk's line holds its part, the indices of its images, and how many of them a user should know of (`NOTES`).
    A line that was cut off by a crash is not counted. Another preparation's journal, or a damaged one, is thrown away.
    """

    def __init__(self, partial: Path, identity: Mapping[str, Any]):
        self.done = {part: np.zeros(identity["counts"][part], dtype=bool) for part in PARTS}
        self.notes: Counter[str] = Counter()
        path = partial / "journal"
        head = json.dumps(identity)
        pixels = PARTS if identity["storage"] == "pixels" else ()
        image = (identity["size"], identity["size"], identity["channels"])
        shape = {part: (identity["counts"][part], *image) for part in pixels}
        lines = self._continued(path, head, shape)
        if lines is not None:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            if partial.exists():
                print(f"what an earlier preparation left in {partial} is of other images or damaged; it starts anew")
                _remove(partial)
            partial.mkdir(parents=True)
            for part in pixels:
                _allocate(partial / f"{part}_images.npy", shape[part])
            path.write_text(head + "\n", encoding="utf-8")
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed in __exit__)

    def _continued(self, path: Path, head: str, shape: Mapping[str, tuple[int, ...]]) -> list[str] | None:
        """The complete lines of a journal of the same preparation, counted in `done` and `notes`; None where there is
        none, or it or what it counts is damaged."""
        done = {part: np.zeros_like(of_part) for part, of_part in self.done.items()}
        noted: Counter[str] = Counter()
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last is empty, or torn
            if not lines or lines[0] != head:
                return None
            for line in lines[1:]:
                part, indices, notes = json.loads(line)
                places = np.asarray(indices)
                if places.dtype.kind != "i" or places.ndim != 1 or places.min() < 0:
                    return None
                if not all(kind in NOTES and isinstance(count, int) and count > 0 for kind, count in notes.items()):
                    return None
                done[part][places] = True
                noted.update(notes)
            for part, expected in shape.items():
                array = np.load(path.parent / f"{part}_images.npy", mmap_mode="r", allow_pickle=False)
                if array.shape != expected or array.dtype != np.uint8:
                    return None
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, AttributeError, RecursionError):
            return None
        self.done, self.notes = done, noted
        return lines

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def pending(self, part: str) -> np.ndarray:
        return np.flatnonzero(~self.done[part])

    def record(self, part: str, indices: list[int], notes: Mapping[str, int]) -> None:
        self.done[part][indices] = True
        self.notes.update(notes)
        self._stream.write(json.dumps([part, indices, notes]) + "\n")
        self._stream.flush()


def _remove(partial: Path) -> None:
    """Removes what a preparation wrote into its own folder, and the folder if nothing else is in it.

    Raises:
        OSError: something else is in it.
    """
    for name in ("journal", *DATA_FILES):
        (partial / name).unlink(missing_ok=True)
    partial.rmdir()


def _allocate(path: Path, shape: tuple[int, ...]) -> None:
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    del array
    if hasattr(os, "posix_fallocate"):
        # a disk that is full must be an error here: writing to a hole of a mapped file would kill the process
        with open(path, "rb+") as stream:
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)


def _fill(raw: RawDataset, partial: Path, journal: _Journal, identity: Mapping[str, Any], workers: int) -> list[str]:
    """Writes the labels, and every image that the journal does not count yet; returns notes about all images for the
    log, also about those that an earlier call has written.

    Raises:
        DataError: images cannot be read or decoded. It names all of them; the others are done and kept.
    """
    size, channels = identity["size"], identity["channels"]
    for name in PARTS:
        part: Part = getattr(raw, name)
        np.save(partial / f"{name}_labels.npy", part.labels.astype(np.int64))
        if isinstance(part.images, Indexed):
            np.save(partial / f"{name}_images.npy", part.images.records)
        elif isinstance(part.images, Pixels):
            pending = journal.pending(name)
            target = np.lib.format.open_memmap(partial / f"{name}_images.npy", mode="r+")
            for start in range(0, len(pending), CHUNK):
                indices = pending[start : start + CHUNK]
                chosen = part.images.array[indices]
                if chosen.shape[1:] != target.shape[1:]:
                    pictures = part.images.pictures(indices)
                    chosen = np.stack([square(picture, size, channels) for picture in pictures])
                target[indices] = chosen
                target.flush()
                journal.record(name, indices.tolist(), {})
    tasks = _tasks(raw, partial, journal, size, channels)
    total, done = sum(identity["counts"].values()), sum(int(of_part.sum()) for of_part in journal.done.values())
    failures: list[str] = []
    with tqdm(desc=identity["dataset"], total=total, initial=done, unit="image", disable=None) as progress:
        for finished in _run(tasks, workers):
            if finished.indices:
                journal.record(finished.part, finished.indices, finished.notes)
            progress.update(len(finished.indices))
            failures += finished.failures
    if failures:
        raise refused(sorted(failures), "images cannot be used")
    return [f"{journal.notes[kind]} images {words}" for kind, words in NOTES.items() if journal.notes[kind]]


def _twice(raw: RawDataset, partial: Path) -> list[str]:
    """Warnings of images that are in both parts, or in two classes of a part, by their prepared pixels."""
    places: dict[bytes, list[tuple[str, int]]] = {}
    for part in PARTS:
        images = np.load(partial / f"{part}_images.npy", mmap_mode="r")
        for index, image in enumerate(images):
            places.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), []).append((part, index))
    groups = [group for group in places.values() if len(group) > 1]

    def name(place: tuple[str, int]) -> str:
        return getattr(raw, place[0]).images.names[place[1]]

    def label(place: tuple[str, int]) -> int:
        return int(getattr(raw, place[0]).labels[place[1]])

    both = [group for group in groups if len({part for part, _ in group}) > 1]
    torn = [group for group in groups if len(set(map(label, group))) > 1]
    notes = []
    if both:
        count = sum(part == "test" for group in both for part, _ in group)
        pairs = [" = ".join(dict.fromkeys((name(group[0]), name(group[-1])))) for group in both]
        notes.append(
            f"warning: {count} test images are training images too, so that the test is easier than it should be; "
            f"remove them from one part: {shortened(pairs)}"
        )
    if torn:
        pairs = [" = ".join(map(name, group[:2])) for group in torn]
        notes.append(f"warning: {len(torn)} images are in several classes: {shortened(pairs)}")
    return notes


@dataclass(frozen=True)
class _Finished:
    """What became of a task: `indices` are done, with `notes` about them; `failures` say which are not and why."""

    part: str
    indices: list[int]
    failures: list[str]
    notes: Counter[str]


@dataclass(frozen=True)
class _Task:
    """Some images to decode; `data` holds their bytes where the archive can only be read from front to back."""

    part: str
    indices: list[int]
    archive: Path
    names: list[str]
    data: list[bytes] | None
    target: Path
    size: int
    channels: int
    banner: int

    def __call__(self) -> _Finished:
        target = np.lib.format.open_memmap(self.target, mode="r+")
        done, failures, notes = [], [], Counter()
        for position, (index, name) in enumerate(zip(self.indices, self.names, strict=True)):
            where = f"{self.archive}: {name}"
            try:
                data = _read_member(self.archive, name) if self.data is None else self.data[position]
                found: Counter[str] = Counter()
                target[index] = decode(data, self.size, self.channels, where=where, banner=self.banner, notes=found)
                done.append(index)
                notes += found
            except DataError as error:
                failures.append(str(error))
        target.flush()
        return _Finished(self.part, done, failures, notes)


def _tasks(raw: RawDataset, partial: Path, journal: _Journal, size: int, channels: int) -> Iterator[_Task]:
    streamed: dict[Path, dict[str, tuple[str, int]]] = {}

    def task(part: str, indices: list[int], data: list[bytes] | None) -> _Task:
        files: Files = getattr(raw, part).images
        names = [files.names[index] for index in indices]
        target = partial / f"{part}_images.npy"
        return _Task(part, indices, files.archive, names, data, target, size, channels, files.banner)

    for part in PARTS:
        files = getattr(raw, part).images
        if not isinstance(files, Files):
            continue
        pending: list[int] = journal.pending(part).tolist()
        if files.random_access:
            for start in range(0, len(pending), CHUNK):
                yield task(part, pending[start : start + CHUNK], None)
        else:
            wanted = streamed.setdefault(files.archive, {})
            for index in pending:
                wanted[files.names[index]] = part, index
    for archive, wanted in streamed.items():
        waiting: dict[str, tuple[list[int], list[bytes]]] = {part: ([], []) for part in PARTS}
        with open_archive(archive) as opened:
            for member in opened if wanted else ():
                if member.name not in wanted:
                    continue
                part, index = wanted.pop(member.name)
                indices, data = waiting[part]
                indices.append(index)
                data.append(member.read())
                if len(indices) == CHUNK or sum(map(len, data)) >= CHUNK_BYTES:
                    yield task(part, indices, data)
                    waiting[part] = ([], [])
        for part, (indices, data) in waiting.items():
            if indices:
                yield task(part, indices, data)
        if wanted:
            raise DataError(f"{archive} lacks {min(wanted)}; the archive is incomplete: fetch it again")


def _run(tasks: Iterator[_Task], workers: int) -> Iterator[_Finished]:
    """Runs the tasks, in this process or in a pool; at most two tasks a worker wait at any time."""
    if workers <= 1:
        for task in tasks:
            yield task()
        return
    # Spawned, not forked: a fork would inherit the file lock, and copies of locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    pool: ProcessPoolExecutor | None = None
    running: set[Future] = set()
    try:
        for task in tasks:
            pool = pool or ProcessPoolExecutor(workers, context, _end_with_parent)  # there may be no task at all
            running.add(pool.submit(task))
            if len(running) >= 2 * workers:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        for future in running:
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died while decoding images, probably for lack of memory; use fewer workers and run "
            "again (finished work is kept). A script of your own needs `if __name__ == '__main__':` around its call"
        ) from error
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for tasks for ever: watch the parent and end with it.

    Ctrl-C is the parent's business, which lets the workers finish what they have begun.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    if parent is None:  # nobody's worker
        return

    def watch() -> None:
        wait_for_any([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _read_member(archive: Path, name: str) -> bytes:
    if archive.is_dir():
        try:
            return (archive / name).read_bytes()
        except OSError as error:
            raise DataError(
                printable(f"{archive / name} cannot be read: {error.strerror}; restore the file, then run again")
            ) from error
    return _open_zip(archive, archive.stat().st_mtime_ns)[name].read()


@lru_cache(maxsize=1)
def _open_zip(archive: Path, _mtime_ns: int) -> Any:
    """One open archive a process: reading the list of members of a large archive takes a second."""
    return open_archive(archive)

"""Prepares a dataset: decodes every image once into the arrays of a prepared folder (see `prepared`).

It can be killed at any moment and run again: a journal counts the images that are done.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from .. import __version__
from ..core.errors import DataError
from ..core.files import sha256, write_json
from . import decode_pool
from .decode import NOTES, square
from .folders import refused, shortened, walk
from .index import Indexed
from .prepared import DATA_FILES, FORMAT, MANIFEST, PARTS, TEST_FILES, file_status, open_prepared, remember_check
from .readers import Files, Part, Pixels, RawDataset


def write_prepared(
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
    per_class = {part: _count_classes(getattr(raw, part), part, raw.classes) for part in PARTS}
    for label, class_name in enumerate(raw.classes):
        if not any(per_class[part][label] for part in PARTS):
            raise DataError(f"dataset {name}: class {class_name!r} has no images; add some or remove the class")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            identity = _identity(raw, name, size, channels or raw.channels)
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
            _publish(raw, partial, folder, manifest)
            return manifest
    except OSError as error:
        raise DataError(
            f"cannot prepare {name} in {folder}: {error.strerror or error}; "
            "choose a folder that you may write to, with free space, then run again (finished work is kept)"
        ) from error


def _identity(raw: RawDataset, name: str, size: int, channels: int) -> dict[str, Any]:
    """What a preparation is made of: two with the same identity have the same arrays."""
    train, test = raw.train.images, raw.test.images
    if isinstance(train, Indexed) and isinstance(test, Indexed):
        source = _index_identity(raw, train, test)
    else:
        source = {"storage": "pixels", "sources": [_fingerprint(path) for path in raw.sources]}
    return {
        "format": FORMAT,
        "dataset": name,
        "size": size,
        "channels": channels,
        "classes": list(raw.classes),
        "counts": {part: len(getattr(raw, part).labels) for part in PARTS},
        **source,
    }


def _publish(raw: RawDataset, partial: Path, folder: Path, manifest: dict[str, Any]) -> None:
    """Moves complete arrays into their folder; its manifest comes last. A list of the user's files is added to it."""
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # while files are exchanged the folder is not complete
    if raw.users_own and isinstance(raw.test.images, Files):
        write_json(folder / TEST_FILES, list(raw.test.images.names))
        manifest["test_files"] = {"file": TEST_FILES, "sha256": sha256(folder / TEST_FILES)}
    for file in DATA_FILES:
        (partial / file).replace(folder / file)
    write_json(folder / MANIFEST, manifest)
    remember_check(folder, manifest, file_status(folder, "run again"))
    _remove(partial)


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
    if "library_version" in manifest:  # of version 0.1.0, which decoded some images otherwise
        return None
    return manifest if all(manifest.get(key) == value for key, value in identity.items()) else None


class _Journal:
    """Which images of a preparation are done: one JSON line a finished chunk, after a line of what is prepared.

    A chunk's line holds its part, the indices of its images, and how many of them a user should know of (`NOTES`).
    A line that was cut off by a crash is not counted. Another preparation's journal, or a damaged one, is thrown away.
    """

    def __init__(self, partial: Path, identity: dict[str, Any]):
        self.done = {part: np.zeros(identity["counts"][part], dtype=bool) for part in PARTS}
        self.notes: Counter[str] = Counter()
        path = partial / "journal"
        # what another version has begun is not continued; what it has finished is the same data (`FORMAT`)
        head = json.dumps(identity | {"library_version": __version__})
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
            for start in range(0, len(pending), decode_pool.CHUNK):
                indices = pending[start : start + decode_pool.CHUNK]
                chosen = part.images.array[indices]
                if chosen.shape[1:] != target.shape[1:]:
                    pictures = part.images.pictures(indices)
                    chosen = np.stack([square(picture, size, channels) for picture in pictures])
                target[indices] = chosen
                target.flush()
                journal.record(name, indices.tolist(), {})
    parts: dict[str, Files] = {name: images for name in PARTS if isinstance(images := getattr(raw, name).images, Files)}
    pending = {name: journal.pending(name).tolist() for name in parts}
    total, done = sum(identity["counts"].values()), sum(int(of_part.sum()) for of_part in journal.done.values())
    failures: list[str] = []
    with tqdm(desc=identity["dataset"], total=total, initial=done, unit="image", disable=None) as progress:
        for decoded in decode_pool.decode_files(parts, pending, partial, size, channels, workers):
            if decoded.indices:
                journal.record(decoded.part, decoded.indices, decoded.notes)
            progress.update(len(decoded.indices))
            failures += decoded.failures
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

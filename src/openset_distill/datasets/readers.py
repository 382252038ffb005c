"""Readers of the official dataset layouts: which images there are, where they lie, and their labels.

A reader takes the folder that holds the downloaded archives (or the one archive or image folder itself) and returns
a `RawDataset`. It reads lists and labels; images that are files are decoded later, by `prepared`.
"""

from __future__ import annotations

import io
import math
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ..core.errors import DataError
from ..core.text import printable
from . import safe_pickle
from .archives import is_foreign, open_archive, read_compressed
from .folders import Listing, check, leftover, refused, shortened, walk
from .index import Indexed, Record, folder_records, tar_records

IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

# Height in pixels of the strip with the copyright notice under every Aircraft image (Maji et al. 2013).
AIRCRAFT_BANNER = 20


# --------------------------------------------------------------------------------------------- raw datasets


@dataclass(frozen=True)
class Pixels:
    """Images that the archive stores as pixels: uint8 `[n, height, width, channels]`."""

    array: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.array)

    def where(self, index: int) -> str:
        """The image's place, for messages."""
        return f"{self.source}: image {index}"

    def pictures(self, indices: np.ndarray) -> Iterable[Image.Image]:
        """The images at `indices`."""
        for index in indices:
            picture = np.ascontiguousarray(self.array[index])
            yield Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


@dataclass(frozen=True)
class Files:
    """Images that are encoded files in a folder, zip or tar archive.

    `names` are member names (paths relative to a folder); `banner` is the height in pixels of a strip at the
    bottom of every image that is no part of the picture.
    """

    archive: Path
    names: Sequence[str]
    banner: int = 0

    def __len__(self) -> int:
        return len(self.names)

    @property
    def source(self) -> str:
        """Where the images are, for messages."""
        return printable(str(self.archive))

    def where(self, index: int) -> str:
        """The image's place, for messages."""
        return printable(f"{self.archive}: {self.names[index]}")

    @property
    def random_access(self) -> bool:
        """Whether single images can be read; a compressed tar can only be read from front to back."""
        return self.archive.is_dir() or zipfile.is_zipfile(self.archive)


@dataclass(frozen=True)
class Part:
    """The training or the test images, with their class ids: int64 `[n]`."""

    images: Pixels | Files | Indexed
    labels: np.ndarray


@dataclass(frozen=True)
class RawDataset:
    """What a reader found.

    `classes`: names in label order; `channels`: 1 (grey) or 3 (RGB); `sources`: the files that were read;
    `test_only`: classes that have no training images by design, so that they can only be unknown; `notes`: what a
    user should know, for the log; `users_own`: the images are the user's own files, whose names are kept, and among
    which the same image may occur twice.
    """

    classes: tuple[str, ...]
    train: Part
    test: Part
    channels: int
    sources: tuple[Path, ...] = ()
    test_only: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    users_own: bool = False


_NOTHING = Part(Pixels(np.zeros((0, 1, 1, 1), np.uint8), "no images"), np.zeros(0, np.int64))


# -------------------------------------------------------------------------------------------------- helpers


def _find(raw: Path, *names: str) -> Path:
    """The first of `names` that lies in `raw`; or `raw` itself where it has one of these names."""
    for name in names:
        if (raw / name).exists():
            return raw / name
        if raw.name == name and raw.exists():
            return raw
    what = names[0] if len(names) == 1 else f"{names[0]} (or {', '.join(names[1:])})"
    raise DataError(f"{raw} lacks {what}; download the dataset first")


def _scan(archive: Path, wanted: Callable[[str], bool] = lambda name: False) -> tuple[list[str], dict[str, bytes]]:
    """The names of the files in a folder or archive in sorted order, and the contents of the `wanted` ones."""
    contents = {}
    if archive.is_dir():
        listing = walk(archive)
        check(listing)
        names = listing.names
        contents = {name: (archive / name).read_bytes() for name in names if wanted(name)}
    else:
        names = []
        with open_archive(archive) as opened:
            for member in opened:
                names.append(member.name)
                if wanted(member.name):
                    contents[member.name] = member.read()
    return sorted(names), contents


def _listing(archive: Path) -> Listing:
    """The files of a folder or archive, without what programs leave behind.

    Raises:
        DataError: something in it cannot be read.
    """
    if archive.is_dir():
        listing = walk(archive)
        check(listing)
        return listing
    listing = Listing()
    with open_archive(archive) as opened:
        for member in opened:
            kind = next(filter(None, map(leftover, member.name.split("/"))), None)
            if kind is None:
                listing.names.append(member.name)
            else:
                listing.skipped[kind] += 1
        listing.folders = sorted(folder for folder in opened.folders if not any(map(leftover, folder.split("/"))))
    listing.names.sort()
    return listing


def _text(contents: Mapping[str, bytes], archive: Path, name: str) -> list[list[str]]:
    """The lines of the list whose path ends with `name`, each split at white space."""
    found = [member for member in contents if member == name or member.endswith(f"/{name}")]
    if not found:
        raise DataError(f"{archive} lacks {name}; the archive is incomplete: fetch it again")
    try:
        lines = contents[found[0]].decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{archive}: {found[0]} is not a text file; the archive is damaged: fetch it again") from error
    return [line.split() for line in lines if line.strip()]


def _damaged_list(archive: Path, name: str, error: Exception) -> DataError:
    return DataError(f"{archive}: {name} is damaged ({type(error).__name__}: {error}); fetch the archive again")


def _labels(values: object) -> np.ndarray:
    """Class ids of a list or array: int64 `[n]`.

    Raises:
        ValueError: they are not whole numbers in a row.
    """
    labels = np.asarray(values)
    whole = labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and bool(np.all(labels == np.round(labels))))
    if not whole or labels.ndim != 1 or (labels.dtype.kind == "f" and not np.isfinite(labels).all()):
        raise ValueError(f"labels of {labels.dtype} {list(labels.shape)} are no row of whole numbers")
    return labels.astype(np.int64)


def _files_part(archive: Path, rows: Iterable[tuple[str, int]], present: Iterable[str], banner: int = 0) -> Part:
    """A part from (member name, label) pairs.

    Raises:
        DataError: a list names an image that the archive lacks.
    """
    rows = list(rows)
    lacking = {name for name, _ in rows}.difference(present)
    if lacking:
        raise DataError(
            f"{archive} lacks {len(lacking)} listed images, first {min(lacking)}; "
            "the archive is incomplete: fetch it again"
        )
    return Part(
        Files(archive, tuple(name for name, _ in rows), banner), np.array([label for _, label in rows], np.int64)
    )


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _check_image_names(archive: Path, names: Iterable[str]) -> None:
    others = [printable(f"{archive}: {name} is not an image file") for name in names if not _is_image(name)]
    if others:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise refused(others, "files are in the place of images", f"remove or convert what has no suffix of {kinds}")


def _images_in(raw: Path) -> Path:
    """`raw`, or the one archive in it when it holds nothing but files."""
    if not raw.exists():
        raise DataError(f"{raw} does not exist; name a folder of images or an archive of one, or download the dataset")
    if raw.is_dir():
        visible = [path for path in raw.iterdir() if leftover(path.name) is None]
        archives = [path for path in visible if path.name.lower().endswith(ARCHIVE_SUFFIXES)]
        if not any(path.is_dir() for path in visible):
            if len(archives) == 1:
                return archives[0]
            images = any(_is_image(path.name) for path in visible)
            foreign = [path for path in visible if not images and path.is_file() and is_foreign(path)]
            if foreign:
                return min(foreign)  # opening it says what it is
    return raw


# ------------------------------------------------------------------------------- layouts that store pixels


def embedded_digits(_raw: Path | None = None) -> RawDataset:
    """The 1,797 handwritten digits (8x8, grey) that scikit-learn carries: no download.

    They have no official split. Half of each class, drawn once with a fixed seed, is the test part, so that
    every experiment has the same one. Grey values 0..16 are scaled to 0..255.
    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), test part.
    """
    from sklearn.datasets import load_digits  # slow to import, and only this reader needs it

    digits: Any = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int64)
    generator = np.random.default_rng(0)
    in_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        of_class = generator.permutation(np.flatnonzero(labels == label))
        in_test[of_class[: len(of_class) // 2]] = True
    return RawDataset(
        classes=_DIGITS,
        train=Part(Pixels(images[~in_test], "embedded digits"), labels[~in_test]),
        test=Part(Pixels(images[in_test], "embedded digits"), labels[in_test]),
        channels=1,
    )


_DIGITS = tuple(str(digit) for digit in range(10))


def idx(raw: Path) -> RawDataset:
    """MNIST's four files (LeCun et al. 1998), compressed or not; 28x28, grey."""
    parts, sources = [], []
    for stem in ("train", "t10k"):
        images_path = _find(raw, f"{stem}-images-idx3-ubyte.gz", f"{stem}-images-idx3-ubyte")
        labels_path = _find(raw, f"{stem}-labels-idx1-ubyte.gz", f"{stem}-labels-idx1-ubyte")
        images = _read_idx(images_path, dimensions=3)[..., np.newaxis]
        parts.append(Part(Pixels(images, str(images_path)), _read_idx(labels_path, dimensions=1).astype(np.int64)))
        sources += [images_path, labels_path]
    return RawDataset(_DIGITS, parts[0], parts[1], channels=1, sources=tuple(sources))


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An array of an IDX file: bytes 0, 0, 8 (= uint8), the number of dimensions, each dimension as a
    big-endian int32, the values."""
    data, head = read_compressed(path), 4 + 4 * dimensions
    shape = np.frombuffer(data[4:head], ">u4").tolist() if len(data) >= head else []
    if data[:4] != bytes((0, 0, 8, dimensions)) or not shape or len(data) - head != math.prod(shape):
        raise DataError(f"{path} is damaged: it is not a complete IDX file of {dimensions} dimensions; fetch it again")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def svhn_mat(raw: Path) -> RawDataset:
    """Street View House Numbers, cropped digits (Netzer et al. 2011); 32x32, RGB. Digit 0 has label 10 in the files."""
    parts, sources = [], []
    for part in ("train", "test"):
        path = _find(raw, f"{part}_32x32.mat")
        contents = _read_mat(path, path.read_bytes())
        try:
            images, labels = contents["X"].transpose(3, 0, 1, 2), _labels(contents["y"].reshape(-1))
            if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
                raise ValueError(f"images of {images.dtype} {images.shape[1:]}")
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise _damaged_list(path, "its contents", error) from error
        parts.append(Part(Pixels(images, str(path)), np.where(labels == 10, 0, labels)))
        sources.append(path)
    return RawDataset(_DIGITS, parts[0], parts[1], channels=3, sources=tuple(sources))


def _read_mat(where: Path | str, data: bytes) -> dict[str, np.ndarray]:
    from scipy.io import loadmat  # slow to import, and only two layouts need it

    try:
        return loadmat(io.BytesIO(data), squeeze_me=False)
    except Exception as error:  # a damaged file can end in almost any exception
        raise DataError(f"{where} is not a readable MATLAB file ({error}); fetch it again") from error


def cifar_pickle(raw: Path) -> RawDataset:
    """CIFAR-10 or CIFAR-100 with fine labels (Krizhevsky 2009), the Python archives; 32x32, RGB."""
    archive = _find(raw, "cifar-10-python.tar.gz", "cifar-100-python.tar.gz")
    pickles = {}
    with open_archive(archive) as opened:
        for member in opened:
            name = PurePosixPath(member.name).name
            if name in ("train", "test", "meta", "batches.meta", "test_batch") or name.startswith("data_batch_"):
                pickles[name] = safe_pickle.loads(member.read(), str(member))
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    lists = (["train"], ["test"]) if "train" in pickles else (batches, ["test_batch"])
    labels_key = "fine_labels" if "train" in pickles else "labels"
    meta, names_key = ("meta", "fine_label_names") if "train" in pickles else ("batches.meta", "label_names")
    parts = []
    for names in lists:
        images, labels = [], []
        for name in [*names, meta]:
            if name not in pickles:
                raise DataError(f"{archive} lacks {name}; the archive is incomplete: fetch it again")
        for name in names:
            try:
                images.append(pickles[name]["data"].reshape(-1, 3, 32, 32).astype(np.uint8, casting="safe"))
                labels.append(_labels(pickles[name][labels_key]))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise _damaged_list(archive, name, error) from error
        pixels = np.concatenate(images).transpose(0, 2, 3, 1)
        parts.append(Part(Pixels(pixels, f"{archive}: {', '.join(names)}"), np.concatenate(labels)))
    try:
        classes = tuple(str(name) for name in pickles[meta][names_key])
    except (KeyError, TypeError) as error:
        raise _damaged_list(archive, meta, error) from error
    return RawDataset(classes, parts[0], parts[1], channels=3, sources=(archive,))


# -------------------------------------------------------------------------------- layouts of image files


def tiny_imagenet(raw: Path) -> RawDataset:
    """Tiny-ImageNet (Stanford CS231n), `tiny-imagenet-200.zip`; 64x64, grey images become RGB.

    Class ids are ranks of the sorted WordNet ids, for all 200 classes, whether the archive has training images of
    them or not. The test part is `val`, whose labels are in `val_annotations.txt`; `test` has no public labels.
    Copies that were rearranged, as many guides do, are read too: `val/<wnid>/` and `val/<wnid>/images/`, with the list
    or without it, and `train/<wnid>/` without `images/`. The images have the same order in all of them.
    """
    archive = _find(raw, "tiny-imagenet-200.zip", "tiny-imagenet-200")
    names, contents = _scan(archive, lambda name: name.endswith(("wnids.txt", "val_annotations.txt")))
    classes = tuple(sorted(row[0] for row in _text(contents, archive, "wnids.txt")))
    rank = {wnid: label for label, wnid in enumerate(classes)}
    prefix = next(name for name in contents if name.endswith("wnids.txt")).removesuffix("wnids.txt")
    train, in_folders = [], []
    for name in names:
        place = name.removeprefix(prefix).split("/")
        if place[0] == "val" and place[1] in rank and _is_image(name):
            in_folders.append((name, place[1]))
        if place[0] == "train" and (place[2:3] == ["images"] or len(place) == 3) and _is_image(name):
            if place[1] not in rank:
                raise DataError(f"{archive}: {name} is of class {place[1]}, which wnids.txt lacks; fetch it again")
            train.append((name, rank[place[1]]))
    if in_folders and not any(name.endswith("val/val_annotations.txt") for name in contents):
        test = [(name, rank[wnid]) for name, wnid in sorted(in_folders, key=lambda row: _by_number(row[0]))]
        return RawDataset(classes, _files_part(archive, train, names), _files_part(archive, test, names), 3, (archive,))
    moved = {PurePosixPath(name).name: (name, wnid) for name, wnid in in_folders}
    test = []
    try:
        for row in _text(contents, archive, "val/val_annotations.txt"):
            name, folder = moved.get(row[0], (f"{prefix}val/images/{row[0]}", row[1]))
            if folder != row[1]:
                raise DataError(
                    f"{archive}: {name} is of class {row[1]} by val_annotations.txt; fetch the archive again, or put "
                    "the file into the folder of its class"
                )
            test.append((name, rank[row[1]]))
    except (KeyError, IndexError) as error:
        raise _damaged_list(archive, "val/val_annotations.txt", error) from error
    return RawDataset(classes, _files_part(archive, train, names), _files_part(archive, test, names), 3, (archive,))


def _by_number(name: str) -> tuple[str, int, str]:
    """A key that sorts `val_2.JPEG` before `val_10.JPEG`, as the official list does, whatever folders they are in."""
    stem, _, number = PurePosixPath(name).stem.rpartition("_")
    return (stem, int(number) if number.isdecimal() else -1, name)


def cub(raw: Path) -> RawDataset:
    """Caltech-UCSD Birds 200-2011 (Wah et al. 2011), `CUB_200_2011.tgz`; class id = official number - 1."""
    archive = _find(raw, "CUB_200_2011.tgz", "CUB_200_2011")
    lists = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
    names, contents = _scan(archive, lambda name: PurePosixPath(name).name in lists)
    tables = {}
    for name in lists:
        try:
            tables[name] = {int(row[0]): row[1] for row in _text(contents, archive, name)}
        except (ValueError, IndexError) as error:
            raise _damaged_list(archive, name, error) from error
    prefix = next(name for name in contents if name.endswith("images.txt")).removesuffix("images.txt")
    parts: dict[str, list[tuple[str, int]]] = {"1": [], "0": []}
    try:
        for number, place in tables["images.txt"].items():
            label = int(tables["image_class_labels.txt"][number]) - 1
            parts[tables["train_test_split.txt"][number]].append((f"{prefix}images/{place}", label))
    except (KeyError, ValueError) as error:
        raise _damaged_list(archive, "one of its lists", error) from error
    classes = tuple(name for _, name in sorted(tables["classes.txt"].items()))
    return RawDataset(
        classes, _files_part(archive, parts["1"], names), _files_part(archive, parts["0"], names), 3, (archive,)
    )


def aircraft(raw: Path) -> RawDataset:
    """FGVC-Aircraft, 100 variants (Maji et al. 2013), `fgvc-aircraft-2013b.tar.gz`; train = trainval.

    Class ids are ranks of the sorted variant names, as in the published class splits. The notice at the bottom
    of every image, 20 pixels high, is cut off.
    """
    archive = _find(raw, "fgvc-aircraft-2013b.tar.gz", "fgvc-aircraft-2013b")
    lists = ("data/images_variant_trainval.txt", "data/images_variant_test.txt")
    names, contents = _scan(archive, lambda name: name.endswith(lists))
    tables = []
    for name in lists:
        rows = _text(contents, archive, name)
        if any(len(row) < 2 for row in rows):
            raise DataError(f"{archive}: {name} has a line without a variant; fetch the archive again")
        tables.append([(row[0], " ".join(row[1:])) for row in rows])
    classes = tuple(sorted({variant for table in tables for _, variant in table}))
    rank = {variant: label for label, variant in enumerate(classes)}
    prefix = next(name for name in contents if name.endswith(lists[0])).removesuffix("images_variant_trainval.txt")
    train, test = (
        _files_part(
            archive,
            [(f"{prefix}images/{image}.jpg", rank[variant]) for image, variant in table],
            names,
            AIRCRAFT_BANNER,
        )
        for table in tables
    )
    return RawDataset(classes, train, test, 3, (archive,))


def stanford_cars(raw: Path) -> RawDataset:
    """Stanford Cars (Krause et al. 2013): image archives and annotations; class id = official number - 1.

    The files are `cars_train.tgz`, `cars_test.tgz`, `car_devkit.tgz` (or `devkit/`), and the annotations with labels
    of the test images, `cars_test_annos_withlabels.mat`.
    """
    devkit = _find(raw, "car_devkit.tgz", "devkit")
    _, contents = _scan(devkit, lambda name: name.endswith(("cars_meta.mat", "cars_train_annos.mat")))
    contents = {PurePosixPath(name).name: data for name, data in contents.items()}
    for name in ("cars_meta.mat", "cars_train_annos.mat"):
        if name not in contents:
            raise DataError(f"{devkit} lacks {name}; the archive is incomplete: fetch it again")
    test_list = _find(raw, "cars_test_annos_withlabels.mat")
    annotations = {
        "train": (f"{devkit}: cars_train_annos.mat", contents["cars_train_annos.mat"]),
        "test": (str(test_list), test_list.read_bytes()),
    }
    parts, sources = {}, [devkit, test_list]
    for part, (where, data) in annotations.items():
        archive = _find(raw, f"cars_{part}.tgz", f"cars_{part}")
        prefix = "" if archive.is_dir() else f"cars_{part}/"
        table = _read_mat(where, data)
        try:
            rows = [
                (f"{prefix}{row['fname'].item()}", int(_labels([row["class"].item()])[0]) - 1)
                for row in table["annotations"].reshape(-1)
            ]
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise _damaged_list(devkit, where, error) from error
        parts[part] = _files_part(archive, rows, _scan(archive)[0])
        sources.append(archive)
    meta = _read_mat(f"{devkit}: cars_meta.mat", contents["cars_meta.mat"])
    try:
        classes = tuple(str(name.item()) for name in meta["class_names"].reshape(-1))
    except (KeyError, ValueError, AttributeError) as error:
        raise _damaged_list(devkit, "cars_meta.mat", error) from error
    return RawDataset(classes, parts["train"], parts["test"], 3, tuple(sources))


def image_folder(raw: Path) -> RawDataset:
    """A folder, zip or tar archive of images: `train/<class>/...` and `test/<class>/...`.

    Classes are the sorted folder names under `train`; folders that only `test` has come after them and are unknown
    classes. One outer folder around `train` and `test` is allowed.
    """
    archive = _images_in(raw)
    listing = _listing(archive)
    names = listing.names
    outer = {name.split("/")[0] for name in names}
    prefix = outer.pop() + "/" if len(outer) == 1 and not outer & {"train", "test"} else ""
    by_class: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    within = []
    for folder in listing.folders:  # empty ones too
        place = folder.removeprefix(prefix).split("/")
        if len(place) == 2 and place[0] in by_class:
            by_class[place[0]].setdefault(place[1], [])
        elif len(place) > 2:
            within.append(folder)
    _check_no_image_is_a_folder(archive, names, within)
    misplaced = []
    for name in names:
        place = name.removeprefix(prefix).split("/")
        if place[0] not in by_class:
            misplaced.append(f"{archive}: {name} is not under {prefix}train or {prefix}test")
        elif len(place) < 3:
            misplaced.append(f"{archive}: {name} is in no class folder ({prefix}{place[0]}/<class>)")
        else:
            by_class[place[0]].setdefault(place[1], []).append(name)
    if misplaced:
        raise refused([printable(line) for line in misplaced], "files are in no class folder", "move or remove them")
    for part, classes in by_class.items():
        if not classes:
            raise DataError(f"{archive} has no images under {prefix}{part}; it needs {part}/<class>/<image files>")
        empty = [
            printable(f"{archive}: class folder {prefix}{part}/{class_name} has no images")
            for class_name, members in classes.items()
            if not members
        ]
        if empty:
            raise refused(empty, "class folders are empty", "add some or remove the folder")
    _check_image_names(archive, [name for part in by_class.values() for members in part.values() for name in members])
    known = sorted(by_class["train"])
    test_only = sorted(set(by_class["test"]) - set(known))
    rank = {class_name: label for label, class_name in enumerate(known + test_only)}
    _check_class_names(archive, rank)
    train, test = (
        _files_part(
            archive,
            [(name, rank[class_name]) for class_name in sorted(by_class[part]) for name in by_class[part][class_name]],
            names,
        )
        for part in ("train", "test")
    )
    notes = [*listing.notes, *_twins(rank)]
    if test_only:
        notes.append(
            f"{len(test_only)} classes are in {prefix}test alone and count as unknown: {shortened(test_only, 50)}"
        )
    return RawDataset(tuple(rank), train, test, 3, (archive,), tuple(test_only), tuple(notes), users_own=True)


def _check_no_image_is_a_folder(archive: Path, names: Iterable[str], folders: Iterable[str]) -> None:
    """An empty folder with an image's name stands where an image was lost: container programs make one in place of a
    file that they do not find."""
    like_images = [folder for folder in folders if _is_image(folder)]
    held = {str(parent) for name in names for parent in PurePosixPath(name).parents} if like_images else ()
    lost = [printable(f"{archive}: {folder} is an empty folder") for folder in like_images if folder not in held]
    if lost:
        raise refused(lost, "folders are in the place of images", "restore the image, or remove the folder")


def _check_class_names(archive: Path, names: Iterable[str]) -> None:
    """Names of class folders become names of classes in files and figures, so they must be text."""
    odd = [
        printable(f"{archive}: the class folder {name}")
        for name in names
        if any(unicodedata.category(letter) in ("Cs", "Cc") for letter in name)
    ]
    if odd:
        raise refused(
            odd, "class folders have names that are no text", "its name is no UTF-8 text on one line; rename the folder"
        )


def _twins(names: Iterable[str]) -> list[str]:
    """Warnings of class names that differ only in case, spaces or the way that accents are written."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    return [
        f"warning: the classes {' and '.join(map(repr, group))} differ only in case, spaces or accents and count as "
        "different classes; give their folders one name if they are the same"
        for group in alike.values()
        if len(group) > 1
    ]


def textures(raw: Path) -> RawDataset:
    """Describable Textures (Cimpoi et al. 2014), `dtd-r1.0.1.tar.gz`: all 5,640 images as the test part.

    The dataset serves as out-of-distribution data, for which the literature uses all of it.
    """
    archive = _find(raw, "dtd-r1.0.1.tar.gz", "dtd")
    names = [name for name in _listing(archive).names if "images/" in name]
    classes = tuple(sorted({PurePosixPath(name).parent.name for name in names}))
    if not classes:
        raise DataError(f"{archive} has no images in images/<texture>; the archive is incomplete: fetch it again")
    _check_image_names(archive, names)
    rank = {class_name: label for label, class_name in enumerate(classes)}
    rows = [(name, rank[PurePosixPath(name).parent.name]) for name in names]
    return RawDataset(classes, _NOTHING, _files_part(archive, rows, names), 3, (archive,), classes)


def flat_images(raw: Path) -> RawDataset:
    """Out-of-distribution images without classes: every file at any depth of a folder, zip or tar archive that has an
    image's suffix. All are in the test part, in one class with the name of the folder.
    """
    archive = _images_in(raw)
    listing = _listing(archive)
    names = [name for name in listing.names if _is_image(name)]
    others = sorted(set(listing.names) - set(names))
    _check_no_image_is_a_folder(archive, listing.names, listing.folders)
    if not names:
        raise DataError(f"{archive} has no images; put image files into it, or download the dataset first")
    test = _files_part(archive, [(name, 0) for name in names], names)
    classes = (raw.name.partition(".")[0],)
    notes = [f"{len(others)} files are no images and are left out: {shortened(others)}"] if others else []
    return RawDataset(classes, _NOTHING, test, 3, (archive,), classes, (*listing.notes, *notes))


# ----------------------------------------------------------------------------- layouts that are only indexed

# Test images a class of a release without a split: as many as the validation part of ImageNet-21K-P has.
TEST_IMAGES_PER_CLASS = 50


def imagenet(raw: Path) -> RawDataset:
    """ImageNet-1K (ILSVRC 2012): the official tar archives, or the folders `train/<wnid>/` and `val/<wnid>/`.

    Class ids are ranks of the sorted WordNet ids; the test part is the official validation part. Only an index is
    made: `ILSVRC2012_img_train.tar` and `ILSVRC2012_img_val.tar` stay packed; `ILSVRC2012_devkit_t12.tar.gz` has the
    labels.
    """
    if (raw / "train").is_dir():
        parts = [list(folder_records(raw, _find(raw, folder).name)) for folder in ("train", "val")]
        return _indexed(raw, parts[0], parts[1])
    archives = [_find(raw, f"ILSVRC2012_{name}") for name in ("img_train.tar", "img_val.tar", "devkit_t12.tar.gz")]
    train = [
        (name.split(".tar/")[0], name, record) for name, record in tar_records(raw, archives[0].name) if ".tar/" in name
    ]
    train.sort()
    _, contents = _scan(archives[2], lambda name: name.endswith(("meta.mat", "ground_truth.txt")))
    truth = _text(contents, archives[2], "data/ILSVRC2012_validation_ground_truth.txt")
    synsets = _read_mat(
        f"{archives[2]}: meta.mat", next((data for name, data in contents.items() if name.endswith("meta.mat")), b"")
    )
    test = sorted(tar_records(raw, archives[1].name))
    try:
        wnids = {int(row["ILSVRC2012_ID"].item()): str(row["WNID"].item()) for row in synsets["synsets"].reshape(-1)}
        test = [(wnids[int(row[0])], record) for row, (_, record) in zip(truth, test, strict=True)]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise _damaged_list(archives[2], "the list of validation labels", error) from error
    return _indexed(raw, [(wnid, record) for wnid, _, record in train], test, tuple(archives))


def imagenet21k(raw: Path) -> RawDataset:
    """ImageNet-21K, indexed: the folders of ImageNet-21K-P, or one tar archive a class.

    ImageNet-21K-P (Ridnik et al. 2021) has `imagenet21k_train/<wnid>/` and `imagenet21k_val/<wnid>/`; the first may
    be absent, since open-set tests need the second alone. The winter21 release unpacks to `<wnid>.tar` files and has
    no split: the first 50 images of each class, by name, are the test part. Making the index takes about half a
    kilobyte of memory an image.
    """
    if not raw.is_dir():
        raise DataError(f"{raw} is no folder; unpack ImageNet-21K and name the folder it is in")
    if (raw / "imagenet21k_resized").is_dir():
        raw = raw / "imagenet21k_resized"
    if (raw / "imagenet21k_val").is_dir():
        train = folder_records(raw, "imagenet21k_train") if (raw / "imagenet21k_train").is_dir() else ()
        return _indexed(raw, list(train), list(folder_records(raw, "imagenet21k_val")))
    archives = sorted(raw.glob("n[0-9]*.tar"))
    if not archives:
        raise DataError(
            f"{raw} has neither imagenet21k_val/ (ImageNet-21K-P) nor <wnid>.tar files (winter21); "
            f"unpack the archive of the release there: tar -xf {raw}/imagenet21k_resized.tar.gz -C {raw}"
        )
    train, test = [], []
    for archive in archives:
        of_class = [(archive.stem, record) for _, record in sorted(tar_records(raw, archive.name))]
        test += of_class[:TEST_IMAGES_PER_CLASS]
        train += of_class[TEST_IMAGES_PER_CLASS:]
    return _indexed(raw, train, test, tuple(archives))


def _indexed(
    raw: Path, train: list[tuple[str, Record]], test: list[tuple[str, Record]], sources: tuple[Path, ...] = ()
) -> RawDataset:
    """A dataset from (class name, record) pairs."""
    classes = tuple(sorted({name for name, _ in (*train, *test)}))
    rank = {name: label for label, name in enumerate(classes)}
    parts = [
        Part(Indexed.of(raw, [record for _, record in rows]), np.array([rank[name] for name, _ in rows], np.int64))
        for rows in (train, test)
    ]
    return RawDataset(classes, parts[0], parts[1], 3, sources, () if train else classes)


READERS: Mapping[str, Callable[[Path], RawDataset]] = {
    reader.__name__: reader
    for reader in (
        embedded_digits,
        idx,
        svhn_mat,
        cifar_pickle,
        tiny_imagenet,
        cub,
        aircraft,
        stanford_cars,
        image_folder,
        textures,
        flat_images,
        imagenet,
        imagenet21k,
    )
}

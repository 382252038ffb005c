"""A user's folder of images as one that the library reads: `train/<class>/...` and `test/<class>/...`, made of links.

Nothing is copied, and the user's folder is not touched. What is linked is decoded, split, trained on and tested by the
same code as every other dataset.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..core.errors import DataError
from ..core.folders import replaced_folder
from ..core.text import printable
from ..datasets.decode import FORMATS
from ..datasets.folders import leftover
from .images import Source, find_images, is_image

# Of each class: one image to test, one to calibrate, and three to train. Fewer say nothing.
LEAST_IMAGES = 5
TEST_FRACTION = 0.2
# images whose headers are read to learn the size of all
SAMPLED = 200


@dataclass(frozen=True)
class OwnImages:
    """Which images a user has.

    Attributes:
        train: class name -> files to train and calibrate with.
        test: class name -> files to test with.
        unknown: files that show none of the classes; perhaps none.
        drawn: whether the test part was drawn here, not given by the user.
        left_out: files of images in no class folder.
    """

    train: Mapping[str, tuple[str, ...]]
    test: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    drawn: bool
    left_out: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.train)

    def side(self) -> int:
        """The median length of the shorter side of images, in pixels, from the headers of some of them.

        Raises:
            DataError: none of them can be opened as an image.
        """
        files = [file for of_class in self.train.values() for file in of_class]
        sides, problem = [], None
        for file in files[:: max(1, len(files) // SAMPLED)]:
            try:
                with Image.open(file, formats=FORMATS) as image:
                    sides.append(min(image.size))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                problem = problem or DataError(
                    f"{printable(file)} cannot be opened as an image ({printable(str(error))}); replace or remove it"
                )
        if not sides:
            raise problem or DataError("there are no images")
        return int(np.median(sides))

    def link(self, folder: Path) -> None:
        """Makes `folder`, anew, with a link for each image.

        Raises:
            OpenSetError: the folder holds anything but such links, or cannot be written.
        """
        unknown = "unknown"
        while unknown in self.train:
            unknown += "_"
        parts = {"train": self.train, "test": {**self.test, **({unknown: self.unknown} if self.unknown else {})}}
        sources = {
            Path(file).resolve().parent
            for files in (*self.train.values(), *self.test.values(), self.unknown)
            for file in files
        }
        with replaced_folder(folder, tool="openset-train", own=_links, apart=sources) as new:
            for part, classes in parts.items():
                for class_name, files in classes.items():
                    (new / part / class_name).mkdir(parents=True)
                    for name, file in zip(_distinct_names(files), files, strict=True):
                        os.symlink(os.path.abspath(file), new / part / class_name / name)


def _links(folder: Path) -> list[str]:
    """The links in a folder: what `OwnImages.link` writes, and nothing else."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink()]


def read(folder: Path, unknown: Path | None, seed: int) -> OwnImages:
    """What is in a user's folder: `<class>/...`, of which a test part is drawn, or `train/<class>/`, `test/<class>/`.

    Images of a class lie at any depth in its folder. Classes that only `test` has are unknown, as are all images of the
    folder `unknown`.

    Args:
        seed: of the drawn test part, a fifth of each class.

    Raises:
        DataError: there are no class folders, only one class, fewer than five images in a class, no test image of a
            class, or what is named cannot be read.
    """
    _check_folder(folder)
    folders = _subfolders(folder)
    if {"train", "test"} & set(folders):
        missing = {"train", "test"} - set(folders)
        if missing:
            raise DataError(
                f"{printable(str(folder))} has a folder {({'train', 'test'} - missing).pop()} and no folder "
                f"{missing.pop()}; add it, or rename the folder if it is a class"
            )
        others, left_out = sorted(set(folders) - {"train", "test"}), 0
        if others:
            raise DataError(
                f"{printable(str(folder))} has train and test, and {printable(', '.join(others[:3]))} too; "
                "move these folders into train, or elsewhere"
            )
        found = {part: _by_class(folder / part) for part in ("train", "test")}
        train, test = found["train"][0], found["test"][0]
        left_out = found["train"][1] + found["test"][1]
        _check_classes(folder / "train", train)
        lacking = [name for name in train if not test.get(name)]
        if lacking:
            raise DataError(
                f"{printable(str(folder / 'test'))} has no images of {_listed(lacking)}; add some, "
                "or name the folder train alone, of which a test part is drawn"
            )
        of_unknown = [file for name, files in test.items() if name not in train for file in files]
        test = {name: test[name] for name in train}
    else:
        train, left_out = _by_class(folder)
        _check_classes(folder, train)
        of_unknown, test = [], {}
        for number, (name, files) in enumerate(train.items()):
            order = np.random.default_rng([seed, number]).permutation(len(files))
            count = max(1, round(TEST_FRACTION * len(files)))
            test[name] = tuple(files[i] for i in sorted(order[:count]))
            train[name] = tuple(files[i] for i in sorted(order[count:]))
    if unknown is not None:
        _check_folder(unknown)
        known = {os.path.realpath(file) for part in (train, test) for files in part.values() for file in files}
        more = _files(find_images([unknown]))
        both = [file for file in more if os.path.realpath(file) in known]
        if both:
            raise DataError(
                f"{printable(both[0])} is an image of a known class and unknown too ({len(both)} images are); "
                "take them out of one of the folders"
            )
        of_unknown += more
    return OwnImages(train, test, tuple(of_unknown), drawn=not {"train", "test"} & set(folders), left_out=left_out)


def _check_folder(folder: Path) -> None:
    if not folder.exists():
        raise DataError(f"{printable(str(folder))} does not exist; check the path")
    if not folder.is_dir():
        raise DataError(f"{printable(str(folder))} is no folder; unpack it, and name the folder of class folders")


def _subfolders(folder: Path) -> list[str]:
    try:
        entries = [entry for entry in os.scandir(folder) if not leftover(entry.name)]
    except OSError as error:
        raise DataError(f"{printable(str(folder))} cannot be read: {error.strerror}; check its permissions") from error
    lost = sorted(entry.path for entry in entries if entry.is_symlink() and not os.path.exists(entry.path))
    if lost:
        raise DataError(
            f"{printable(lost[0])} is a link to {printable(os.readlink(lost[0]))}, which is not there ({len(lost)} "
            "such links); fetch its target, or remove it"
        )
    return sorted(entry.name for entry in entries if entry.is_dir())


def _files(sources: Iterable[Source]) -> list[str]:
    """The paths of images that were found.

    Raises:
        DataError: a folder cannot be read, or has no images.
    """
    files = []
    for source in sources:
        if source.error:
            raise DataError(source.error)
        files.append(source.name)
    return files


def _by_class(folder: Path) -> tuple[dict[str, tuple[str, ...]], int]:
    """The images of each class folder, in the order of the names, and how many images are in none.

    Raises:
        DataError: there are no class folders, or one cannot be read.
    """
    names = _subfolders(folder)
    loose = 0
    for entry in os.scandir(folder):
        loose += is_image(entry.name) and entry.is_file()
    if not names:
        what = f"has {loose} images in no class folder" if loose else "is empty: it has no class folders"
        raise DataError(
            f"{printable(str(folder))} {what}; put the images of each class into a folder with the name of the class"
        )
    classes = {}
    for name in names:
        sources = list(find_images([folder / name]))
        empty = len(sources) == 1 and sources[0].error and "has no images" in sources[0].error
        classes[name] = () if empty else tuple(_files(sources))
    return classes, loose


def _check_classes(folder: Path, classes: Mapping[str, tuple[str, ...]]) -> None:
    few = [f"{name} ({len(files)})" for name, files in classes.items() if len(files) < LEAST_IMAGES]
    if few:
        raise DataError(
            f"{printable(str(folder))} has fewer than {LEAST_IMAGES} images of {_listed(few)}; "
            "add images, or remove the folder of the class"
        )
    if len(classes) < 2:
        raise DataError(
            f"{printable(str(folder))} has one class, {_listed(classes)}; a classifier needs two: add a folder with "
            "images of another class"
        )


def _listed(names: Iterable[str]) -> str:
    names = [printable(name) for name in names]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _distinct_names(files: Iterable[str]) -> list[str]:
    """Names of links: the files' own, after a number where two of a class, from different folders, have the same."""
    taken: set[str] = set()
    names = []
    for file in files:
        name, number = os.path.basename(file), 1
        while name.lower() in taken:
            number += 1
            name = f"{number}_{os.path.basename(file)}"
        taken.add(name.lower())
        names.append(name)
    return names

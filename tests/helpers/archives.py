"""Small archives in the official formats of the datasets, for tests.

Every function writes into a folder what a download would put there and returns an `Expected`: the class names, and
for each part the images (pixels, or the bytes of an image file) with their labels, in the reader's order.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

DIGITS = tuple(str(digit) for digit in range(10))
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass
class Expected:
    classes: tuple[str, ...]
    train: list[tuple[np.ndarray | bytes, int]] = field(default_factory=list)
    test: list[tuple[np.ndarray | bytes, int]] = field(default_factory=list)


def picture(seed: int, width: int = 64, height: int = 64, channels: int = 3) -> np.ndarray:
    """A smooth picture that differs for each seed: uint8 `[height, width, channels]` (grey: `[height, width]`)."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    waves = generator.uniform(2, 9, (channels, 2))
    phases = generator.uniform(0, 6, channels)
    values = [np.sin(rows * wave[0] + columns * wave[1] + phase) for wave, phase in zip(waves, phases, strict=True)]
    pixels = np.rint(127.5 * (1 + np.stack(values, axis=-1))).astype(np.uint8)
    return pixels if channels > 1 else pixels[..., 0]


def encoded(pixels: np.ndarray, file_format: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, file_format)
    return stream.getvalue()


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_zip(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files:
            archive.writestr(name, data)


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def mnist(folder: Path, train: int = 20, test: int = 10) -> Expected:
    folder.mkdir(parents=True, exist_ok=True)
    expected = Expected(DIGITS)
    for part, stem, count in (("train", "train", train), ("test", "t10k", test)):
        images = np.stack([picture(seed, 28, 28, 1) for seed in range(count)])
        labels = np.arange(count) % 10
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
        setattr(
            expected, part, [(image[..., np.newaxis], int(label)) for image, label in zip(images, labels, strict=True)]
        )
    return expected


def svhn(folder: Path, train: int = 20, test: int = 10) -> Expected:
    folder.mkdir(parents=True, exist_ok=True)
    expected = Expected(DIGITS)
    for part, count in (("train", train), ("test", test)):
        images = np.stack([picture(seed, 32, 32) for seed in range(count)])
        stored = 1 + np.arange(count) % 10  # the files count 1 to 10, and 10 is the digit 0
        savemat(
            folder / f"{part}_32x32.mat",
            {"X": images.transpose(1, 2, 3, 0), "y": stored.astype(np.uint8)[:, np.newaxis]},
        )
        setattr(expected, part, [(image, int(label) % 10) for image, label in zip(images, stored, strict=True)])
    return expected


def _cifar_batch(images: np.ndarray, **labels: list[int]) -> bytes:
    return pickle.dumps({"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), **labels}, protocol=2)


def cifar10(folder: Path, per_batch: int = 10) -> Expected:
    folder.mkdir(parents=True, exist_ok=True)
    expected = Expected(CIFAR10)
    files = [("batches.meta", pickle.dumps({"label_names": list(CIFAR10)}, protocol=2))]
    for number in range(6):
        images = np.stack([picture(1000 * number + seed, 32, 32) for seed in range(per_batch)])
        labels = [(number + seed) % 10 for seed in range(per_batch)]
        part, name = ("test", "test_batch") if number == 5 else ("train", f"data_batch_{number + 1}")
        files.append((name, _cifar_batch(images, labels=labels)))
        getattr(expected, part).extend(zip(images, labels, strict=True))
    write_tar(folder / "cifar-10-python.tar.gz", [(f"cifar-10-batches-py/{name}", data) for name, data in files])
    return expected


def cifar100(folder: Path, train: int = 100, test: int = 100) -> Expected:
    folder.mkdir(parents=True, exist_ok=True)
    expected = Expected(tuple(f"class_{label:02}" for label in range(100)))
    files = [("meta", pickle.dumps({"fine_label_names": list(expected.classes), "coarse_label_names": []}, protocol=2))]
    for part, count in (("train", train), ("test", test)):
        images = np.stack([picture(seed, 32, 32) for seed in range(count)])
        labels = [seed % 100 for seed in range(count)]
        files.append((part, _cifar_batch(images, fine_labels=labels, coarse_labels=[label // 5 for label in labels])))
        getattr(expected, part).extend(zip(images, labels, strict=True))
    write_tar(folder / "cifar-100-python.tar.gz", [(f"cifar-100-python/{name}", data) for name, data in files])
    return expected


def tiny_imagenet_files(
    classes: int = 6, train: int = 4, test: int = 2, present: Iterable[int] | None = None
) -> tuple[list[tuple[str, bytes]], Expected]:
    """The files of a Tiny-ImageNet archive; `present`: the classes with training images (default: all).

    The first training image of every class is grey, as some of the real ones are.
    """
    wnids = [f"n{10_000_000 + 7 * label:08}" for label in range(classes)]
    present = set(range(classes) if present is None else present)
    expected = Expected(tuple(wnids))
    root = "tiny-imagenet-200"
    files = [
        (f"{root}/wnids.txt", "".join(f"{wnid}\n" for wnid in reversed(wnids)).encode()),
        (f"{root}/words.txt", "".join(f"{wnid}\tthing, object\n" for wnid in wnids).encode()),
    ]
    for label, wnid in enumerate(wnids):
        files.append((f"{root}/train/{wnid}/{wnid}_boxes.txt", b"x\t0\t0\t63\t63\n"))
        for number in range(train if label in present else 0):
            data = encoded(picture(100 * label + number, channels=1 if number == 0 else 3))
            files.append((f"{root}/train/{wnid}/images/{wnid}_{number}.JPEG", data))
            expected.train.append((data, label))
    lines = []
    for number in range(classes * test):
        label = (classes - 1) * (number + 1) % classes
        data = encoded(picture(50_000 + number))
        files.append((f"{root}/val/images/val_{number}.JPEG", data))
        lines.append(f"val_{number}.JPEG\t{wnids[label]}\t0\t0\t63\t63\n")
        expected.test.append((data, label))
    files.append((f"{root}/val/val_annotations.txt", "".join(lines).encode()))
    files.append((f"{root}/test/images/test_0.JPEG", encoded(picture(1))))
    return files, expected


def tiny_imagenet(
    folder: Path, classes: int = 6, train: int = 4, test: int = 2, present: Iterable[int] | None = None
) -> Expected:
    folder.mkdir(parents=True, exist_ok=True)
    files, expected = tiny_imagenet_files(classes, train, test, present)
    write_zip(folder / "tiny-imagenet-200.zip", files)
    return expected


def cub(folder: Path, classes: int = 4, per_class: int = 4) -> Expected:
    """Images are landscape and portrait; every other one is a training image."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = Expected(tuple(f"{label + 1:03}.Bird_{label}" for label in range(classes)))
    lists: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": [], "classes": []}
    files = [("attributes.txt", b"1 has_bill_shape::curved\n")]
    number = 0
    for label, name in enumerate(expected.classes):
        lists["classes"].append(f"{label + 1} {name}")
        for index in range(per_class):
            number += 1
            size = (120, 80) if index % 2 else (80, 120)
            data, place = encoded(picture(number, *size)), f"{name}/Bird_{number:04}.jpg"
            files.append((f"CUB_200_2011/images/{place}", data))
            lists["images"].append(f"{number} {place}")
            lists["image_class_labels"].append(f"{number} {label + 1}")
            lists["train_test_split"].append(f"{number} {index % 2}")
            (expected.train if index % 2 else expected.test).append((data, label))
    files += [(f"CUB_200_2011/{name}.txt", ("\n".join(lines) + "\n").encode()) for name, lines in lists.items()]
    write_tar(folder / "CUB_200_2011.tgz", files)
    return expected


def aircraft(folder: Path, classes: int = 4, per_class: int = 3) -> Expected:
    """The last 20 rows of every image are a white banner. `expected` holds pixels without it (lossless in the test)."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["DH-82", "DHC-1", "707-320", "Cessna 172", "A310", "Yak-42"][:classes]
    expected = Expected(tuple(sorted(names)))
    root, files, number = "fgvc-aircraft-2013b/data", [], 1_000_000
    for part, listed in (("train", "trainval"), ("test", "test")):
        lines = []
        for name in names:
            for _ in range(per_class):
                number += 1
                pixels = picture(number, 100, 80)
                with_banner = np.concatenate([pixels, np.full((20, 100, 3), 255, np.uint8)])
                # PNG data under the official name: no loss, so that a row of the banner would be seen
                files.append((f"{root}/images/{number}.jpg", encoded(with_banner, "PNG")))
                lines.append(f"{number} {name}\n")
                getattr(expected, part).append((pixels, expected.classes.index(name)))
        files.append((f"{root}/images_variant_{listed}.txt", "".join(lines).encode()))
    files.append((f"{root}/variants.txt", "".join(f"{name}\n" for name in names).encode()))
    write_tar(folder / "fgvc-aircraft-2013b.tar.gz", files)
    return expected


def _cars_annotations(path: Path | io.BytesIO, rows: list[tuple[str, int]]) -> None:
    annotations = np.empty((1, len(rows)), dtype=[("bbox_x1", "O"), ("class", "O"), ("fname", "O")])
    for index, (name, label) in enumerate(rows):
        annotations[0, index] = (1, label + 1, name)
    savemat(path, {"annotations": annotations})


def stanford_cars(folder: Path, classes: int = 4, per_class: int = 2) -> Expected:
    folder.mkdir(parents=True, exist_ok=True)
    expected = Expected(tuple(f"Maker Model {label} 2012" for label in range(classes)))
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for part, of_part in rows.items():
        files = []
        for number in range(classes * per_class):
            label = (classes - 1) * (number + 1) % classes
            data = encoded(picture(number if part == "train" else 500 + number, 90, 60))
            of_part.append((f"{number + 1:05}.jpg", label))
            files.append((f"cars_{part}/{number + 1:05}.jpg", data))
            getattr(expected, part).append((data, label))
        write_tar(folder / f"cars_{part}.tgz", files)
    train_list, meta = io.BytesIO(), io.BytesIO()
    _cars_annotations(train_list, rows["train"])
    _cars_annotations(folder / "cars_test_annos_withlabels.mat", rows["test"])
    names = np.empty((1, classes), dtype=object)
    names[0, :] = expected.classes
    savemat(meta, {"class_names": names})
    write_tar(
        folder / "car_devkit.tgz",
        [("devkit/cars_train_annos.mat", train_list.getvalue()), ("devkit/cars_meta.mat", meta.getvalue())],
    )
    return expected


def textures(folder: Path, classes: int = 3, per_class: int = 2) -> Expected:
    folder.mkdir(parents=True, exist_ok=True)
    expected = Expected(tuple(f"texture_{label}" for label in range(classes)))
    files = [("dtd/labels/train1.txt", b"texture_0/texture_0_0.jpg\n"), ("dtd/imdb/imdb.mat", b"")]
    for label, name in enumerate(expected.classes):
        for number in range(per_class):
            data = encoded(picture(10 * label + number, 70, 90))
            files.append((f"dtd/images/{name}/{name}_{number}.jpg", data))
            expected.test.append((data, label))
    write_tar(folder / "dtd-r1.0.1.tar.gz", files)
    return expected


def image_folder_files(
    known: Iterable[str] = ("cat", "dog", "owl"), unknown: Iterable[str] = ("fox",), train: int = 4, test: int = 2
) -> tuple[list[tuple[str, bytes]], Expected]:
    """The files of a user's folder, with class names in sorted order; PNG, so that pixels are kept."""
    known, unknown = tuple(known), tuple(unknown)
    expected = Expected(known + unknown)
    files = []
    for part, names, count in (("train", known, train), ("test", known + unknown, test)):
        for name in sorted(names):
            for number in range(count):
                seed = 1000 * expected.classes.index(name) + number + (0 if part == "train" else 500)
                data = encoded(picture(seed, 40, 30), "PNG")
                files.append((f"{part}/{name}/{number}.png", data))
                getattr(expected, part).append((data, expected.classes.index(name)))
    return files, expected


def image_folder(folder: Path, **options: object) -> Expected:
    """A user's folder of images, as files."""
    files, expected = image_folder_files(**options)
    for name, data in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return expected


def image_folder_zip(path: Path, outer: str = "", **options: object) -> Expected:
    """The same as a zip archive, with an optional outer folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files, expected = image_folder_files(**options)
    write_zip(path, [(f"{outer}{name}", data) for name, data in files])
    return expected


def flat_images(folder: Path, count: int = 5) -> Expected:
    """Out-of-distribution images in a compressed tar archive, as LSUN and iSUN have them."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = Expected((folder.name,))
    expected.test = [(encoded(picture(number, 36, 36), "PNG"), 0) for number in range(count)]
    write_tar(folder / "iSUN.tar.gz", [(f"iSUN_patches/{i}.png", data) for i, (data, _) in enumerate(expected.test)])
    return expected


def imagenet(folder: Path, classes: int = 3, train: int = 3, test: int = 2) -> Expected:
    """The ILSVRC 2012 archives: a tar archive of tar archives, flat validation images, the development kit."""
    folder.mkdir(parents=True, exist_ok=True)
    wnids = [f"n{20_000_000 + 3 * label:08}" for label in range(classes)]
    expected = Expected(tuple(wnids))
    inner = []
    for label, wnid in enumerate(wnids):
        images = [encoded(picture(10 * label + number, 130, 100)) for number in range(train)]
        expected.train += [(data, label) for data in images]
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for number, data in enumerate(images):
                member = tarfile.TarInfo(f"{wnid}_{number}.JPEG")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        inner.append((f"{wnid}.tar", stream.getvalue()))
    write_tar(folder / "ILSVRC2012_img_train.tar", reversed(inner), "w")
    # official numbers are in another order than the sorted WordNet ids; a synset above the leaves has one too
    official = [classes - label for label in range(classes)]
    validation, truth = [], []
    for number in range(classes * test):
        label = (classes - 1) * (number + 1) % classes
        data = encoded(picture(900 + number, 100, 130))
        validation.append((f"ILSVRC2012_val_{number + 1:08}.JPEG", data))
        truth.append(f"{official[label]}\n")
        expected.test.append((data, label))
    write_tar(folder / "ILSVRC2012_img_val.tar", validation, "w")
    synsets = np.empty((classes + 1, 1), dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    for label, wnid in enumerate(wnids):
        synsets[label, 0] = (float(official[label]), wnid, 0.0)
    synsets[classes, 0] = (float(classes + 1), "n00001740", 3.0)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    root = "ILSVRC2012_devkit_t12/data"
    write_tar(
        folder / "ILSVRC2012_devkit_t12.tar.gz",
        [
            (f"{root}/meta.mat", meta.getvalue()),
            (f"{root}/ILSVRC2012_validation_ground_truth.txt", "".join(truth).encode()),
        ],
    )
    return expected


def class_split_pickle(path: Path, known: list[int], unknown: dict[str, list[int]]) -> None:
    """A semantic shift file, as its authors wrote it."""
    path.write_bytes(
        pickle.dumps({"known_classes": known, "unknown_classes": unknown, "closed_set_open_set_pairs": {}})
    )


def mirrored(file: str) -> Path:
    """An official archive in the mirror folders; the test is skipped, with the reason, where there is none."""
    mirrors = [Path(folder) for folder in os.environ.get("OPENSET_MIRROR", "").split(os.pathsep) if folder]
    if not mirrors:
        pytest.skip("set OPENSET_MIRROR to a folder with the official archives to run this test")
    found = sorted(path for folder in mirrors for path in folder.rglob(file))
    if not found:
        pytest.skip(f"the mirror {', '.join(map(str, mirrors))} does not have {file}")
    return found[0]

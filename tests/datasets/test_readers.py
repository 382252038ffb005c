"""Readers: what each official layout holds, in which order, and what is said about damaged archives."""

from __future__ import annotations

import gzip
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import archives
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from openset_distill.core.errors import DataError
from openset_distill.datasets import catalog
from openset_distill.datasets.archives import open_archive
from openset_distill.datasets.index import Indexed
from openset_distill.datasets.readers import READERS, Files, Part, Pixels, RawDataset


def contents(part: Part) -> list[np.ndarray | bytes]:
    """Every image of a part: its pixels, or the bytes of its file."""
    images = part.images
    if isinstance(images, Pixels):
        return list(images.array)
    if isinstance(images, Indexed):
        return [images.read(index) for index in range(len(images))]
    assert isinstance(images, Files)
    if images.archive.is_dir():
        return [(images.archive / name).read_bytes() for name in images.names]
    with open_archive(images.archive) as archive:
        members = {member.name: member.read() for member in archive if member.name in set(images.names)}
    return [members[name] for name in images.names]


def check(raw: RawDataset, expected: archives.Expected, *, ordered: bool = True) -> None:
    """The reader found exactly the expected images with the expected labels."""
    assert raw.classes == expected.classes
    for part, rows in ((raw.train, expected.train), (raw.test, expected.test)):
        assert part.labels.dtype == np.int64
        found = list(zip(map(as_bytes, contents(part)), part.labels.tolist(), strict=True))
        wanted = [(as_bytes(image), label) for image, label in rows]
        assert found == wanted if ordered else sorted(found) == sorted(wanted)


def as_bytes(image: np.ndarray | bytes) -> bytes:
    return image if isinstance(image, bytes) else image.tobytes()


LAYOUTS: dict[str, Callable[[Path], archives.Expected]] = {
    "idx": archives.mnist,
    "svhn_mat": archives.svhn,
    "tiny_imagenet": archives.tiny_imagenet,
    "cub": archives.cub,
    "stanford_cars": archives.stanford_cars,
    "image_folder": archives.image_folder,
    "textures": archives.textures,
    "flat_images": archives.flat_images,
    "imagenet": archives.imagenet,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_image_and_label_of_a_layout(layout: str, tmp_path: Path) -> None:
    raw = tmp_path / "isun"
    expected = LAYOUTS[layout](raw)
    check(READERS[layout](raw), expected)


@pytest.mark.parametrize("make", [archives.cifar10, archives.cifar100])
def test_cifar(make: Callable[[Path], archives.Expected], tmp_path: Path) -> None:
    expected = make(tmp_path)
    check(READERS["cifar_pickle"](tmp_path), expected)


def test_every_layout_of_the_catalog_has_a_reader() -> None:
    assert {entry.reader for entry in catalog.datasets().values()} == set(READERS)


def test_embedded_digits_are_all_there_and_half_of_each_class_tests() -> None:
    from sklearn.datasets import load_digits

    raw = READERS["embedded_digits"](None)
    official = load_digits()
    assert len(raw.train.labels) + len(raw.test.labels) == 1797
    for label in range(10):
        train, test = (int(np.sum(part.labels == label)) for part in (raw.train, raw.test))
        assert 0 <= train - test <= 1
    together = np.concatenate([raw.train.images.array, raw.test.images.array])
    assert together.shape[1:] == (8, 8, 1)
    assert together.max() == 255
    # nothing is drawn twice: the same pictures as the official ones, in another order
    assert sorted(map(as_bytes, together)) == sorted(
        np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in official.images
    )
    again = READERS["embedded_digits"](None)
    assert np.array_equal(again.test.images.array, raw.test.images.array)


def test_aircraft_classes_are_sorted_and_lists_select_the_parts(tmp_path: Path) -> None:
    expected = archives.aircraft(tmp_path)
    raw = READERS["aircraft"](tmp_path)
    assert raw.classes == ("707-320", "Cessna 172", "DH-82", "DHC-1") == expected.classes
    assert raw.train.labels.tolist() == [label for _, label in expected.train]
    assert raw.test.labels.tolist() == [label for _, label in expected.test]
    assert raw.train.images.banner == raw.test.images.banner == 20


def test_tiny_imagenet_with_some_training_classes_keeps_all_class_ids(tmp_path: Path) -> None:
    expected = archives.tiny_imagenet(tmp_path, classes=6, present=[1, 4])
    raw = READERS["tiny_imagenet"](tmp_path)
    check(raw, expected)
    assert set(raw.train.labels.tolist()) == {1, 4}
    assert set(raw.test.labels.tolist()) == set(range(6))
    assert raw.test_only == ()  # they are missing, not unknown by design


def test_tiny_imagenet_unpacked(tmp_path: Path) -> None:
    expected = archives.tiny_imagenet(tmp_path)
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip") as archive:
        archive.extractall(tmp_path)
    (tmp_path / "tiny-imagenet-200.zip").unlink()
    check(READERS["tiny_imagenet"](tmp_path), expected)


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("inner", ["", "images/"])
def test_tiny_imagenet_with_rearranged_validation_images(inner: str, listed: bool, tmp_path: Path) -> None:
    """As many guides advise: the images of `val` in a folder a class, the list kept or deleted."""
    expected = archives.tiny_imagenet(tmp_path, classes=6, test=3)
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip") as archive:
        archive.extractall(tmp_path)
    (tmp_path / "tiny-imagenet-200.zip").unlink()
    val = tmp_path / "tiny-imagenet-200" / "val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split()[:2]
        (val / wnid / inner).mkdir(parents=True, exist_ok=True)
        (val / "images" / name).replace(val / wnid / inner / name)
    (val / "images").rmdir()
    if not listed:
        (val / "val_annotations.txt").unlink()
    check(READERS["tiny_imagenet"](tmp_path), expected)


def test_tiny_imagenet_with_training_images_right_in_the_class_folders(tmp_path: Path) -> None:
    files, expected = archives.tiny_imagenet_files()
    moved = [(name if "/val/" in name else name.replace("/images/", "/"), data) for name, data in files]
    archives.write_zip(tmp_path / "tiny-imagenet-200.zip", moved)
    check(READERS["tiny_imagenet"](tmp_path), expected)


def test_tiny_imagenet_with_a_validation_image_in_a_wrong_folder(tmp_path: Path) -> None:
    files, expected = archives.tiny_imagenet_files()
    wrong = [(name.replace("val/images/val_0", f"val/{expected.classes[0]}/val_0"), data) for name, data in files]
    archives.write_zip(tmp_path / "tiny-imagenet-200.zip", wrong)
    refused("tiny_imagenet", tmp_path, "val_0.JPEG is of class", "val_annotations.txt")


@pytest.mark.parametrize("outer", ["", "my-pictures/"])
def test_image_folder_as_zip(outer: str, tmp_path: Path) -> None:
    expected = archives.image_folder_zip(tmp_path / "pictures.zip", outer)
    for raw in (tmp_path, tmp_path / "pictures.zip"):
        found = READERS["image_folder"](raw)
        check(found, expected)
        assert found.test_only == ("fox",)


def test_image_folder_ignores_what_systems_leave(tmp_path: Path) -> None:
    expected = archives.image_folder(tmp_path)
    for name in (".DS_Store", "train/cat/Thumbs.db", "train/.cache/x.png", "download.json", "a.zip.origin.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    check(READERS["image_folder"](tmp_path), expected)


def test_flat_images_in_a_folder_take_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.png").write_bytes(archives.encoded(archives.picture(1), "PNG"))
    (folder / "deep" / "er" / "b.jpg").write_bytes(archives.encoded(archives.picture(2)))
    (folder / "readme.txt").write_text("two pictures")
    raw = READERS["flat_images"](folder)
    assert raw.classes == raw.test_only == ("scenes",)
    assert raw.test.images.names == ("a.png", "deep/er/b.jpg")
    assert len(raw.train.labels) == 0


def test_imagenet_as_folders(tmp_path: Path) -> None:
    wnids = ["n00000001", "n00000002"]
    for part in ("train", "val"):
        for wnid in wnids:
            (tmp_path / part / wnid).mkdir(parents=True)
            (tmp_path / part / wnid / f"{part}.JPEG").write_bytes(archives.encoded(archives.picture(3)))
    raw = READERS["imagenet"](tmp_path)
    assert raw.classes == tuple(wnids)
    assert raw.train.labels.tolist() == raw.test.labels.tolist() == [0, 1]
    assert raw.test.images.where(1) == str(tmp_path / "val" / "n00000002" / "val.JPEG")


def test_imagenet21k_validation_folders_alone(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet21k_resized" / "imagenet21k_val" / "n00000009"
    folder.mkdir(parents=True)
    (folder / "x.JPEG").write_bytes(b"1")
    raw = READERS["imagenet21k"](tmp_path)
    assert raw.classes == raw.test_only == ("n00000009",)
    assert (len(raw.train.labels), len(raw.test.labels)) == (0, 1)


def test_imagenet21k_class_archives_test_on_their_first_fifty(tmp_path: Path) -> None:
    images = [(f"n00000001_{number:03}.JPEG", bytes([number])) for number in range(53)]
    archives.write_tar(tmp_path / "n00000001.tar", reversed(images), "w")
    raw = READERS["imagenet21k"](tmp_path)
    assert contents(raw.test) == [data for _, data in images[:50]]
    assert contents(raw.train) == [data for _, data in images[50:]]


# ------------------------------------------------------------------------------------------------ bad input


def refused(layout: str, raw: Path, *words: str) -> None:
    """The reader refuses with a message that has all of the words."""
    with pytest.raises(DataError) as caught:
        READERS[layout](raw)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("layout", sorted(set(READERS) - {"embedded_digits"}))
def test_missing_data_is_named(layout: str, tmp_path: Path) -> None:
    refused(layout, tmp_path / "nowhere", str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("layout", "make", "file"),
    [
        ("idx", archives.mnist, "train-images-idx3-ubyte.gz"),
        ("svhn_mat", archives.svhn, "test_32x32.mat"),
        ("cifar_pickle", archives.cifar10, "cifar-10-python.tar.gz"),
        ("tiny_imagenet", archives.tiny_imagenet, "tiny-imagenet-200.zip"),
        ("cub", archives.cub, "CUB_200_2011.tgz"),
        ("aircraft", archives.aircraft, "fgvc-aircraft-2013b.tar.gz"),
        ("stanford_cars", archives.stanford_cars, "car_devkit.tgz"),
        ("stanford_cars", archives.stanford_cars, "cars_test.tgz"),
        ("stanford_cars", archives.stanford_cars, "cars_test_annos_withlabels.mat"),
        ("textures", archives.textures, "dtd-r1.0.1.tar.gz"),
        ("flat_images", archives.flat_images, "iSUN.tar.gz"),
        ("imagenet", archives.imagenet, "ILSVRC2012_img_train.tar"),
        ("imagenet", archives.imagenet, "ILSVRC2012_devkit_t12.tar.gz"),
    ],
)
@pytest.mark.parametrize("damage", ["cut off", "another file"])
def test_damaged_archive_is_named(layout: str, make: Callable, file: str, damage: str, tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / file
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if damage == "cut off" else b"<html>404 not found</html>" * 40)
    refused(layout, tmp_path, str(path), "fetch")


def test_idx_with_fewer_values_than_announced(tmp_path: Path) -> None:
    archives.mnist(tmp_path)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    refused("idx", tmp_path, str(path), "IDX")


def test_svhn_with_other_contents(tmp_path: Path) -> None:
    archives.svhn(tmp_path)
    savemat(tmp_path / "train_32x32.mat", {"X": np.zeros((8, 8, 3, 2)), "y": np.ones((2, 1))})
    refused("svhn_mat", tmp_path, "train_32x32.mat")
    savemat(tmp_path / "train_32x32.mat", {"z": np.zeros(3)})
    refused("svhn_mat", tmp_path, "train_32x32.mat")


def test_cifar_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "harm"),)

    files = [("cifar-10-batches-py/data_batch_1", pickle.dumps(Harm()))]
    archives.write_tar(tmp_path / "cifar-10-python.tar.gz", files)
    refused("cifar_pickle", tmp_path, "data_batch_1")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "labels",
    [
        np.array([[1], [2]]), np.array([1.5, 2]), np.array([np.inf, 1]), np.array([np.nan, 1]), np.array(["a", "b"]),
        np.array([1 + 0j, 2]), np.array([True, False]), np.int64(3), [[1, 2], [3, 4]], [1, None],
    ],
)  # fmt: skip
def test_labels_that_are_no_row_of_whole_numbers(labels: object, tmp_path: Path) -> None:
    batch = {"data": np.zeros((2, 3072), np.uint8), "labels": labels}
    files = [(f"cifar-10-batches-py/data_batch_{number}", pickle.dumps(batch)) for number in range(1, 6)]
    files += [
        ("cifar-10-batches-py/test_batch", pickle.dumps(batch)),
        ("cifar-10-batches-py/batches.meta", pickle.dumps({"label_names": ["a", "b", "c"]})),
    ]
    archives.write_tar(tmp_path / "cifar-10-python.tar.gz", files)
    with pytest.raises(DataError, match="cifar-10-python") as raised:
        READERS["cifar_pickle"](tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("label", [1.5, np.inf, np.nan])
def test_svhn_with_labels_that_are_no_whole_numbers(label: float, tmp_path: Path) -> None:
    for part in ("train", "test"):
        savemat(
            tmp_path / f"{part}_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[label], [1]])}
        )
    refused("svhn_mat", tmp_path, "train_32x32.mat", "no row of whole numbers")


def test_cifar_without_a_batch(tmp_path: Path) -> None:
    archives.write_tar(tmp_path / "cifar-10-python.tar.gz", [("x/batches.meta", pickle.dumps({"label_names": ["a"]}))])
    refused("cifar_pickle", tmp_path, "data_batch_1", "incomplete")


def test_cifar_with_a_batch_of_another_shape(tmp_path: Path) -> None:
    batch = {"data": np.zeros((3, 7), np.uint8), "labels": [0, 1, 2]}
    names = ["batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))]
    files = [(f"x/{name}", pickle.dumps(batch, protocol=2)) for name in names]
    archives.write_tar(tmp_path / "cifar-10-python.tar.gz", files)
    refused("cifar_pickle", tmp_path, "data_batch_1", "damaged")


def changed_tiny(tmp_path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> None:
    files, _ = archives.tiny_imagenet_files()
    archives.write_zip(tmp_path / "tiny-imagenet-200.zip", filter(None, (change(name, data) for name, data in files)))


def test_tiny_imagenet_lists_an_image_that_is_not_there(tmp_path: Path) -> None:
    changed_tiny(tmp_path, lambda name, data: None if name.endswith("val_3.JPEG") else (name, data))
    refused("tiny_imagenet", tmp_path, "val/images/val_3.JPEG", "incomplete")


def test_tiny_imagenet_annotation_of_an_unknown_class(tmp_path: Path) -> None:
    def change(name: str, data: bytes) -> tuple[str, bytes]:
        return name, data.replace(b"n10000007", b"n99999999") if name.endswith("val_annotations.txt") else data

    changed_tiny(tmp_path, change)
    refused("tiny_imagenet", tmp_path, "val_annotations.txt", "n99999999")


def test_tiny_imagenet_training_folder_of_an_unknown_class(tmp_path: Path) -> None:
    changed_tiny(tmp_path, lambda name, data: (name.replace("train/n10000007", "train/n99999999"), data))
    refused("tiny_imagenet", tmp_path, "n99999999", "wnids.txt")


def test_tiny_imagenet_without_annotations(tmp_path: Path) -> None:
    changed_tiny(tmp_path, lambda name, data: None if name.endswith("val_annotations.txt") else (name, data))
    refused("tiny_imagenet", tmp_path, "val_annotations.txt", "incomplete")


def test_tiny_imagenet_with_a_list_that_is_no_text(tmp_path: Path) -> None:
    changed_tiny(tmp_path, lambda name, data: (name, b"\xff\xfe\x00" if name.endswith("wnids.txt") else data))
    refused("tiny_imagenet", tmp_path, "wnids.txt", "not a text file")


def rewritten_cub(tmp_path: Path, list_name: str, text: bytes) -> None:
    archives.cub(tmp_path)
    with open_archive(tmp_path / "CUB_200_2011.tgz") as archive:
        files = [(member.name, member.read()) for member in archive]
    archives.write_tar(
        tmp_path / "CUB_200_2011.tgz", [(name, text if name.endswith(list_name) else data) for name, data in files]
    )


def test_cub_with_a_list_that_has_too_few_lines(tmp_path: Path) -> None:
    rewritten_cub(tmp_path, "train_test_split.txt", b"1 1\n2 0\n")
    refused("cub", tmp_path, "damaged")


def test_cub_with_a_list_that_has_no_numbers(tmp_path: Path) -> None:
    rewritten_cub(tmp_path, "image_class_labels.txt", b"one two\n")
    refused("cub", tmp_path, "image_class_labels.txt", "damaged")


def test_aircraft_line_without_variant(tmp_path: Path) -> None:
    root = "fgvc-aircraft-2013b/data"
    lists = [(f"{root}/images_variant_{name}.txt", b"1000001\n") for name in ("trainval", "test")]
    archives.write_tar(tmp_path / "fgvc-aircraft-2013b.tar.gz", lists)
    refused("aircraft", tmp_path, "images_variant_trainval.txt", "variant")


def test_cars_annotations_without_labels(tmp_path: Path) -> None:
    # the official annotations of the test images come without labels too, under nearly the same name
    archives.stanford_cars(tmp_path)
    annotations = np.empty((1, 1), dtype=[("bbox_x1", "O"), ("fname", "O")])
    annotations[0, 0] = (1, "00001.jpg")
    savemat(tmp_path / "cars_test_annos_withlabels.mat", {"annotations": annotations})
    refused("stanford_cars", tmp_path, "cars_test_annos_withlabels.mat", "damaged")


def test_textures_without_images(tmp_path: Path) -> None:
    archives.write_tar(tmp_path / "dtd-r1.0.1.tar.gz", [("dtd/labels/train1.txt", b"x\n")])
    refused("textures", tmp_path, "no images")


def test_image_folder_with_an_empty_class_folder(tmp_path: Path) -> None:
    archives.image_folder(tmp_path / "pictures")
    (tmp_path / "pictures" / "train" / "bat").mkdir()
    refused("image_folder", tmp_path / "pictures", "train/bat", "no images")


def test_an_empty_folder_with_an_images_name_is_an_image_that_was_lost(tmp_path: Path) -> None:
    for part, name in (("train", "ant"), ("test", "ant"), ("train", "bee.png"), ("test", "bee.png")):
        (tmp_path / part / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / part / name / "0.png")
    (tmp_path / "train" / "ant" / "set.jpg").mkdir()
    (tmp_path / "train" / "ant" / "set.jpg" / "1.png").write_bytes((tmp_path / "test" / "ant" / "0.png").read_bytes())
    assert len(READERS["image_folder"](tmp_path).train.labels) == 3, "folders may have any name"
    assert len(READERS["flat_images"](tmp_path).test.labels) == 5
    (tmp_path / "train" / "ant" / "2.png").mkdir()
    for reader in ("image_folder", "flat_images"):
        with pytest.raises(DataError, match=r"train/ant/2\.png is an empty folder; restore the image, or remove the"):
            READERS[reader](tmp_path)


def test_image_folder_zip_with_an_empty_class_folder(tmp_path: Path) -> None:
    path = tmp_path / "pictures.zip"
    archives.image_folder_zip(path, "mine/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.mkdir("mine/test/bat")
    refused("image_folder", path, "mine/test/bat", "no images")


def test_image_folder_without_a_test_part(tmp_path: Path) -> None:
    files, _ = archives.image_folder_files()
    archives.write_zip(tmp_path / "pictures.zip", [row for row in files if row[0].startswith("train/")])
    refused("image_folder", tmp_path, "test", "<class>")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("val/cat/1.png", ("val/cat/1.png", "train", "test")),
        ("train/1.png", ("train/1.png", "no class folder")),
        ("train/cat/notes.txt", ("train/cat/notes.txt", "not an image file")),
    ],
)
def test_image_folder_with_a_file_in_the_wrong_place(name: str, words: tuple[str, ...], tmp_path: Path) -> None:
    files, _ = archives.image_folder_files()
    archives.write_zip(tmp_path / "pictures.zip", [*files, (name, b"x")])
    refused("image_folder", tmp_path, *words)


def test_flat_images_without_images(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("none")
    refused("flat_images", tmp_path, "no images")


def test_imagenet_validation_labels_of_another_number(tmp_path: Path) -> None:
    archives.imagenet(tmp_path, test=2)
    other = tmp_path / "other"
    archives.imagenet(other, test=3)
    (other / "ILSVRC2012_img_val.tar").replace(tmp_path / "ILSVRC2012_img_val.tar")
    refused("imagenet", tmp_path, "ILSVRC2012_devkit_t12.tar.gz", "labels")


def test_imagenet_folders_without_what_programs_leave(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("n00000001/a.JPEG", "n00000001/@eaDir/a.JPEG", "@eaDir/a.JPEG", "n00000001/Thumbs.db"):
            (tmp_path / part / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / part / name).write_bytes(b"x")
    raw = READERS["imagenet"](tmp_path)
    assert raw.classes == ("n00000001",)
    assert [len(part.labels) for part in (raw.train, raw.test)] == [1, 1]


def test_imagenet_class_folder_without_images(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "n00000001").mkdir(parents=True)
    refused("imagenet", tmp_path, "n00000001", "no images")


def test_imagenet21k_that_is_still_packed(tmp_path: Path) -> None:
    (tmp_path / "imagenet21k_resized.tar.gz").write_bytes(b"x")
    refused("imagenet21k", tmp_path, "unpack", "tar -xf")

"""Folders of images as users have them: links, leftovers of programs, odd names, twins, damaged files."""

from __future__ import annotations

import json
import logging
import os
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import archives
import numpy as np
import pytest
from commands import script
from PIL import Image

from openset_distill.core.errors import DataError
from openset_distill.datasets.folders import LEFTOVERS, leftover, walk
from openset_distill.datasets.prepare import write_prepared
from openset_distill.datasets.prepared import DATA_FILES, MANIFEST, TEST_FILES, open_prepared, read_test_files
from openset_distill.datasets.readers import READERS

read = READERS["image_folder"]


def image(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two known classes with two images a part, and an unknown one with two."""
    folder, seed = tmp_path / "pets", 0
    for part, names in (("train", ("cat", "dog")), ("test", ("cat", "dog", "fox"))):
        for name in names:
            for number in range(2):
                image(folder / part / name / f"{number}.png", seed := seed + 1)
    return folder


def prepared(raw: Path, folder: Path) -> dict:
    return write_prepared(read(raw), folder, name="image_folder", size=8)


def prepare(raw: Path, folder: Path):
    outputs = [
        part
        for name in (*DATA_FILES, MANIFEST)
        for part in (f"--{name.partition('.')[0].replace('_', '-')}", folder / name)
    ]
    return script("prepare.py", "--dataset", "image_folder", "--raw", raw, "--size", 8, *outputs)


# ------------------------------------------------------------------------------------------------------ links


def test_linked_files_and_folders_are_followed(pets: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    image(elsewhere / "owl" / "a.png", 50)
    image(elsewhere / "owl" / "deep" / "b.png", 51)
    (pets / "train" / "owl").symlink_to(elsewhere / "owl")
    (pets / "test" / "owl").symlink_to(Path("..", "..", "elsewhere", "owl"))
    (pets / "train" / "cat" / "9.png").symlink_to(image(elsewhere / "one.png", 52))
    raw = read(pets)
    assert raw.classes == ("cat", "dog", "owl", "fox")
    train = [name for name in raw.train.images.names if "owl" in name or "9" in name]
    assert train == ["train/cat/9.png", "train/owl/a.png", "train/owl/deep/b.png"]
    assert len(raw.test.images.names) == 8
    assert write_prepared(raw, tmp_path / "out", name="image_folder", size=8)["counts"] == {"train": 7, "test": 8}


def test_links_that_lead_back_end_and_are_counted(pets: Path) -> None:
    before = read(pets).train.images.names
    (pets / "train" / "cat" / "self").symlink_to(pets / "train" / "cat")
    (pets / "train" / "cat" / "up").symlink_to("..")
    (pets / "train" / "cat" / "all").symlink_to(pets)
    raw = read(pets)
    assert raw.train.images.names == before
    assert raw.notes[0] == "left out as no part of the images: 3 x link to a folder that is read already"


def test_many_links_to_each_other_end(tmp_path: Path) -> None:
    """Every one of 12 folders links to all others: followed without memory these are a billion paths."""
    folders = [tmp_path / "train" / "cat" / str(number) for number in range(12)]
    for number, folder in enumerate(folders):
        image(folder / "a.png", number)
    for folder in folders:
        for other in folders:
            if other is not folder:
                (folder / f"to_{other.name}").symlink_to(other)
    assert len({name.rpartition("/")[2] for name in walk(tmp_path).names}) == 1
    assert len(walk(tmp_path).names) == 12


def test_all_that_cannot_be_read_is_named_at_once(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    cat = pets / "train" / "cat"
    for number in range(20):  # as git-annex and DVC leave them where nothing was fetched
        (cat / f"annex{number}.png").symlink_to(f"../../.git/annex/objects/{number}")
    os.mkfifo(cat / "pipe.png")
    (cat / "loop.png").symlink_to("loop.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(cat / "socket.png"))
        with pytest.raises(DataError) as raised, caplog.at_level(logging.WARNING):
            read(pets)
    message = str(raised.value)
    assert message.startswith("23 files or folders cannot be read: ")
    assert "\n" not in message
    assert "13 more, which the log lists" in message
    assert "git annex get, dvc pull" in message
    listed = "\n".join(record.getMessage() for record in caplog.records)
    for number in range(20):
        assert f"annex{number}.png is a link to ../../.git/annex/objects/{number}, which cannot be followed" in listed
    for words in ("pipe.png is a named pipe", "socket.png is a socket", "loop.png is a link to loop.png"):
        assert words in listed


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_is_not_permitted_is_named(pets: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    (pets / "train" / "cat").chmod(0o700 if os.geteuid() == 0 else 0)
    (pets / "test" / "dog" / "0.png").chmod(0o600 if os.geteuid() == 0 else 0)
    try:
        with as_somebody_else(), pytest.raises(DataError, match="2 files or folders cannot be read") as raised:
            read(pets)
    finally:
        (pets / "train" / "cat").chmod(0o700)
    assert "train/cat cannot be read (Permission denied)" in str(raised.value)
    assert "test/dog/0.png cannot be read (Permission denied)" in str(raised.value)


# -------------------------------------------------------------------------------------------------- leftovers

OF_PROGRAMS = [
    *("train/@eaDir/cat.png", "train/cat/@eaDir/0.png@SynoEAStream", "#recycle/cat/9.png", "@Recycle/9.png"),
    *("$RECYCLE.BIN/S-1/9.png", "System Volume Information/x", "lost+found/x", "train/cat/Thumbs.db"),
    *("test/cat/desktop.ini", "train/.ipynb_checkpoints/0-checkpoint.png", "train/cat/._0.png", ".DS_Store"),
    *("__MACOSX/train/cat/._0.png", "train/.git/x.png", "test/__pycache__/a.pyc", "train/cat/.nfs0001"),
]


def test_leftovers_of_programs_are_left_out_and_counted(pets: Path, tmp_path: Path) -> None:
    clean = read(pets)
    for name in OF_PROGRAMS:
        image(pets / name, 77)
    found = read(pets)
    assert (found.classes, found.train.images.names, found.test.images.names) == (
        clean.classes,
        clean.train.images.names,
        clean.test.images.names,
    )
    told = found.notes[0]
    for kind in ("2 x @eaDir (Synology)", "1 x lost+found (Linux)", "1 x Thumbs.db (Windows)", "x hidden"):
        assert kind in told, told
    process = prepare(pets, tmp_path / "out")
    assert process.returncode == 0, process.stderr
    assert told in process.stdout


def test_leftovers_in_archives(pets: Path, tmp_path: Path) -> None:
    for name in OF_PROGRAMS:
        image(pets / name, 77)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in sorted(pets.rglob("*")):
            archive.write(path, path.relative_to(pets).as_posix())
    found, folder = read(tmp_path / "pets.zip"), read(pets)
    assert found.classes == folder.classes
    assert found.train.images.names == folder.train.images.names
    assert "x @eaDir (Synology)" in found.notes[0]


def test_every_leftover_is_found_in_any_case() -> None:
    for name in LEFTOVERS:
        assert leftover(name.upper())
        assert leftover(name)
    for name in ("cat", "eaDir", "thumbs", "recycle", "lost", "images"):
        assert leftover(name) is None


def test_all_files_that_are_no_images_are_named_at_once(pets: Path) -> None:
    for number in range(12):
        (pets / "train" / "cat" / f"note{number}.txt").write_text("x")
    with pytest.raises(DataError, match=r"12 files are in the place of images: .*and 2 more, which the log lists"):
        read(pets)


def test_other_files_beside_flat_images_are_counted(tmp_path: Path) -> None:
    image(tmp_path / "scenes" / "a.png", 1)
    (tmp_path / "scenes" / "list.txt").write_text("x")
    (tmp_path / "scenes" / "Thumbs.db").write_text("x")
    notes = READERS["flat_images"](tmp_path / "scenes").notes
    assert notes == (
        "left out as no part of the images: 1 x Thumbs.db (Windows)",
        "1 files are no images and are left out: list.txt",
    )


# ------------------------------------------------------------------------------------------------------ names


def test_file_names_that_are_no_utf8_work(pets: Path, tmp_path: Path) -> None:
    odd = os.path.join(os.fsencode(pets), b"test/cat/caf\xe9.png")
    os.replace(pets / "test" / "cat" / "0.png", odd)
    process = prepare(pets, tmp_path / "out")
    assert process.returncode == 0, process.stderr
    files = read_test_files(tmp_path / "out")
    assert os.path.samefile(os.path.join(os.fsencode(pets), os.fsencode(files[1])), odd)


def test_a_damaged_file_with_such_a_name_is_one_line(pets: Path, tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(pets), b"test/cat/caf\xe9.png"), "wb") as stream:
        stream.write(b"no image")
    process = prepare(pets, tmp_path / "out")
    assert process.returncode == 2
    assert r"test/cat/caf\xe9.png cannot be decoded" in process.stderr
    assert "Traceback" not in process.stderr


def test_class_names_that_are_no_text_are_refused(pets: Path) -> None:
    os.mkdir(os.path.join(os.fsencode(pets), b"train/caf\xe9"))
    image(pets / "train" / "two\nlines" / "0.png", 9)
    with open(os.path.join(os.fsencode(pets), b"train/caf\xe9/0.png"), "wb") as stream:
        stream.write((pets / "train" / "cat" / "0.png").read_bytes())
    with pytest.raises(DataError, match=r"2 class folders have names that are no text: .*caf\\xe9; .*two\\nlines"):
        read(pets)


@pytest.mark.parametrize("twin", ["Cat", "cat ", "CAT"])
def test_twins_of_class_names_are_told(twin: str, pets: Path) -> None:
    image(pets / "test" / twin / "0.png", 9)
    notes = read(pets).notes
    assert any(note.startswith("warning: the classes") and repr(twin) in note and "'cat'" in note for note in notes)
    assert any("2 classes are in test alone and count as unknown: " in note and "fox" in note for note in notes)


def test_accents_written_in_two_ways_are_twins(pets: Path) -> None:
    image(pets / "train" / "caf\u00e9" / "0.png", 8)
    image(pets / "train" / "cafe\u0301" / "0.png", 9)
    assert any("differ only in case, spaces or accents" in note for note in read(pets).notes)


def test_classes_of_the_test_part_alone_are_named(pets: Path) -> None:
    assert read(pets).notes == ("1 classes are in test alone and count as unknown: fox",)


# ------------------------------------------------------------------------------------------- what images hold


def test_the_same_image_in_both_parts_and_in_two_classes_is_told(pets: Path, tmp_path: Path) -> None:
    shared = (pets / "train" / "cat" / "0.png").read_bytes()
    (pets / "test" / "cat" / "copy.png").write_bytes(shared)
    (pets / "test" / "fox" / "copy.png").write_bytes(shared)
    (pets / "train" / "dog" / "7.png").write_bytes((pets / "train" / "cat" / "1.png").read_bytes())
    notes = prepared(pets, tmp_path / "out")["notes"]
    both, torn = (note for note in notes if note.startswith("warning"))
    assert both.startswith("warning: 2 test images are training images too")
    assert "train/cat/0.png = test/fox/copy.png" in both
    assert torn.startswith("warning: 2 images are in several classes")
    assert "train/cat/1.png = train/dog/7.png" in torn


def test_without_such_images_nothing_is_told(pets: Path, tmp_path: Path) -> None:
    assert prepared(pets, tmp_path / "out")["notes"] == ["1 classes are in test alone and count as unknown: fox"]


def test_what_decoding_notices_is_in_the_log(pets: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (1, 2, 3, 0)).save(pets / "train" / "cat" / "clear.png")
    Image.fromarray(np.full((9, 9), 3000, np.uint16)).save(pets / "train" / "cat" / "xray.png")
    process = prepare(pets, tmp_path / "out")
    assert process.returncode == 0, process.stderr
    assert "1 images have transparent pixels, which are laid on white" in process.stdout
    assert "1 images have 16-bit pixels below 4096" in process.stdout


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_all_damaged_images_are_named_at_once(form: str, workers: int, pets: Path, tmp_path: Path) -> None:
    bad = ["train/cat/1.png", "train/dog/0.png", "test/fox/1.png"]
    for name in bad:
        (pets / name).write_bytes((pets / name).read_bytes()[:100])
    (pets / "test" / "dog" / "1.png").write_bytes(b"")
    files = [(path.relative_to(pets).as_posix(), path.read_bytes()) for path in sorted(pets.rglob("*.png"))]
    raw = {"folder": pets, "zip": tmp_path / "pets.zip", "tar": tmp_path / "pets.tar"}[form]
    if form == "zip":
        archives.write_zip(raw, files)
    elif form == "tar":
        archives.write_tar(raw, files)
    with pytest.raises(DataError, match=r"^4 images cannot be used: ") as raised:
        write_prepared(read(raw), tmp_path / "out", name="image_folder", size=8, workers=workers)
    for name in bad:
        assert f"{name} cannot be decoded" in str(raised.value)
    assert "test/dog/1.png is empty (0 bytes)" in str(raised.value)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------- the files of a test


def test_the_file_of_each_test_image_is_kept(pets: Path, tmp_path: Path) -> None:
    manifest = prepared(pets, tmp_path / "out")
    assert manifest["test_files"]["file"] == TEST_FILES
    files = read_test_files(tmp_path / "out")
    assert files == [f"test/{name}/{number}.png" for name in ("cat", "dog", "fox") for number in range(2)]
    dataset = open_prepared(tmp_path / "out")
    assert [dataset.classes[label] for label in dataset.test.labels] == [file.split("/")[1] for file in files]


def test_other_datasets_have_no_list(tmp_path: Path) -> None:
    write_prepared(READERS["embedded_digits"](None), tmp_path / "out", name="digits", size=8)
    assert read_test_files(tmp_path / "out") is None
    assert not (tmp_path / "out" / TEST_FILES).exists()


@pytest.mark.parametrize("damage", ["missing", "of other files"])
def test_a_list_that_is_not_the_datasets_own_is_refused(damage: str, pets: Path, tmp_path: Path) -> None:
    prepared(pets, tmp_path / "out")
    if damage == "missing":
        (tmp_path / "out" / TEST_FILES).unlink()
    else:
        (tmp_path / "out" / TEST_FILES).write_text(json.dumps(["a.png"] * 6))
    with pytest.raises(DataError, match=r"test_files\.json is missing or is not the list"):
        read_test_files(tmp_path / "out")

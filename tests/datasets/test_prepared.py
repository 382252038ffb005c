"""Preparing datasets: pixels, restarts, several processes, damaged input, and the indexed form."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import archives
import numpy as np
import pytest
from commands import script, succeed
from PIL import Image

from openset_distill.core.errors import DataError
from openset_distill.core.files import sha256
from openset_distill.datasets import decode_pool
from openset_distill.datasets import prepare as preparation
from openset_distill.datasets.decode import decode, square
from openset_distill.datasets.index import Indexed, StreamedImages
from openset_distill.datasets.prepare import write_prepared
from openset_distill.datasets.prepared import DATA_FILES, MANIFEST, PreparedDataset, open_prepared, verify
from openset_distill.datasets.readers import READERS, Part, Pixels, RawDataset

OUTPUTS = (*DATA_FILES, MANIFEST)


def opened(data: bytes) -> np.ndarray:
    """What Pillow makes of a file, as RGB: uint8 `[height, width, 3]`."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def prepare(layout: str, raw: Path, folder: Path, size: int, **options) -> PreparedDataset:
    write_prepared(READERS[layout](raw), folder, name=layout, size=size, **options)
    return open_prepared(folder)


def prepare_command(dataset: str, raw: Path, folder: Path, size: int, *more: object) -> list[object]:
    outputs = [part for name in OUTPUTS for part in (f"--{name.partition('.')[0].replace('_', '-')}", folder / name)]
    return ["prepare.py", "--dataset", dataset, "--raw", raw, "--size", size, *outputs, *more]


def same_bytes(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in OUTPUTS)


# ---------------------------------------------------------------------------------------------- one image


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    data = archives.encoded(archives.picture(1, 64, 64))
    assert np.array_equal(decode(data, 64, 3, where="x"), opened(data))


def test_grey_becomes_rgb_and_rgb_becomes_grey() -> None:
    grey, colour = archives.picture(1, 16, 16, 1), archives.picture(2, 16, 16)
    found = decode(archives.encoded(grey, "PNG"), 16, 3, where="x")
    assert np.array_equal(found, np.repeat(grey[..., np.newaxis], 3, axis=2))
    assert decode(archives.encoded(colour, "PNG"), 16, 1, where="x").shape == (16, 16, 1)


@pytest.mark.parametrize(("width", "height"), [(90, 40), (40, 90), (33, 33)])
def test_resizing_keeps_the_centre_square(width: int, height: int) -> None:
    # red in the central square, blue in what must be cut off
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = 255
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = (255, 0, 0)
    found = decode(archives.encoded(pixels, "PNG"), 16, 3, where="x")
    assert np.array_equal(found[1:-1, 1:-1], np.broadcast_to(np.uint8([255, 0, 0]), (14, 14, 3)))
    assert found[..., 2].max() < 64  # at the edge the filter reaches a little beyond it, as it would before a crop


def test_reduction_is_antialiased() -> None:
    # a pattern of single black and white rows becomes grey; without antialiasing some rows would survive
    pixels = np.zeros((64, 64), np.uint8)
    pixels[::2] = 255
    found = decode(archives.encoded(pixels, "PNG"), 8, 1, where="x")
    assert found.min() > 100
    assert found.max() < 155


def test_large_jpeg_is_close_to_the_full_decode() -> None:
    data = archives.encoded(archives.picture(5, 640, 480))
    whole = square(Image.open(io.BytesIO(data)), 32, 3)
    reduced = decode(data, 32, 3, where="x")
    assert np.abs(whole.astype(int) - reduced).mean() < 2


def test_photographs_are_turned_upright() -> None:
    upright = archives.picture(3, 32, 32)
    stored = Image.fromarray(np.rot90(upright, k=1).copy())  # turned left: the tag says to turn right
    tag, stream = Image.Exif(), io.BytesIO()
    tag[0x0112] = 6
    stored.save(stream, "PNG", exif=tag)
    assert np.array_equal(decode(stream.getvalue(), 32, 3, where="x"), upright)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    assert np.array_equal(decode(stream.getvalue(), 16, 1, where="x")[..., 0], values >> 8)


def test_pixels_without_known_range_are_refused() -> None:
    stream = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(stream, "TIFF")
    with pytest.raises(DataError, match=r"a\.tif .*8-bit"):
        decode(stream.getvalue(), 4, 3, where="a.tif")


@pytest.mark.parametrize("damage", ["text", "empty", "cut off", "bomb"])
def test_what_is_no_image_is_refused(damage: str) -> None:
    good = archives.encoded(archives.picture(1, 64, 64), "PNG")
    data = {
        "text": b"not an image",
        "empty": b"",
        "cut off": good[: len(good) // 2],
        # a header that announces 60000 x 60000 pixels
        "bomb": good[:16] + (60_000).to_bytes(4, "big") * 2 + good[24:],
    }[damage]
    with pytest.raises(DataError, match=r"here\.png .*cannot be decoded.*(undamaged copy|restore it)"):
        decode(data, 64, 3, where="here.png")


# ------------------------------------------------------------------------------------------------ datasets


@pytest.mark.parametrize("workers", [1, 2])
def test_tiny_imagenet(workers: int, tmp_path: Path) -> None:
    expected = archives.tiny_imagenet(tmp_path / "raw", classes=6, train=4, test=2, present=[0, 2, 3])
    dataset = prepare("tiny_imagenet", tmp_path / "raw", tmp_path / "out", 64, workers=workers, licence="research")
    assert dataset.classes == expected.classes
    for part, rows in ((dataset.train, expected.train), (dataset.test, expected.test)):
        assert part.images.dtype == np.uint8
        assert part.shape == (64, 64, 3)
        assert part.labels.tolist() == [label for _, label in rows]
        assert all(np.array_equal(image, opened(data)) for image, (data, _) in zip(part.images, rows, strict=True))
    assert dataset.manifest["missing_classes"] == [expected.classes[label] for label in (1, 4, 5)]
    assert dataset.manifest["per_class"]["train"] == [4, 0, 4, 4, 0, 0]
    assert dataset.manifest["licence"] == "research"
    assert dataset.manifest["sources"][0]["name"] == "tiny-imagenet-200.zip"


def test_compressed_tar_is_read_from_front_to_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pool, "CHUNK", 3)  # several tasks for both parts, which lie mixed in the archive
    expected = archives.cub(tmp_path / "raw", classes=5, per_class=4)
    dataset = prepare("cub", tmp_path / "raw", tmp_path / "out", 32)
    for part, rows in ((dataset.train, expected.train), (dataset.test, expected.test)):
        wanted = np.stack([decode(data, 32, 3, where="x") for data, _ in rows])
        assert np.array_equal(part.images, wanted)
        assert part.labels.tolist() == [label for _, label in rows]


def test_aircraft_banner_is_cut_off(tmp_path: Path) -> None:
    expected = archives.aircraft(tmp_path / "raw")
    dataset = prepare("aircraft", tmp_path / "raw", tmp_path / "out", 80)
    for image, (pixels, _) in zip(dataset.train.images, expected.train, strict=True):
        assert np.array_equal(image, pixels[:, 10:90])  # 100 x 80 without the banner: the central 80 x 80


def test_aircraft_banner_of_a_large_photograph() -> None:
    # the decoder reduces large JPEG files by itself; the banner is reduced with them
    pixels = np.zeros((420, 400, 3), np.uint8)
    pixels[400:] = 255
    found = decode(archives.encoded(pixels), 20, 3, where="x", banner=20)
    assert found.max() < 8


def test_an_image_that_is_all_banner_is_refused() -> None:
    with pytest.raises(DataError, match=r"low\.jpg .*banner"):
        decode(archives.encoded(archives.picture(1, 40, 15)), 8, 3, where="low.jpg", banner=20)


def test_pixels_are_kept_or_resized(tmp_path: Path) -> None:
    expected = archives.mnist(tmp_path / "raw")
    same = prepare("idx", tmp_path / "raw", tmp_path / "28", 28)
    assert all(np.array_equal(a, b) for a, (b, _) in zip(same.train.images, expected.train, strict=True))
    larger = prepare("idx", tmp_path / "raw", tmp_path / "32", 32, channels=3)
    wanted = Image.fromarray(expected.test[0][0][..., 0]).resize((32, 32), Image.Resampling.BILINEAR)
    assert larger.test.shape == (32, 32, 3)
    assert np.array_equal(larger.test.images[0, ..., 1], np.asarray(wanted))


def test_classes_of_the_test_part_alone_are_unknown_by_design(tmp_path: Path) -> None:
    archives.image_folder(tmp_path / "raw")
    manifest = prepare("image_folder", tmp_path / "raw", tmp_path / "out", 16).manifest
    assert manifest["test_only_classes"] == ["fox"]
    assert manifest["missing_classes"] == []


def test_dataset_without_a_training_part(tmp_path: Path) -> None:
    archives.flat_images(tmp_path / "isun")
    dataset = prepare("flat_images", tmp_path / "isun", tmp_path / "out", 32)
    assert (len(dataset.train), len(dataset.test)) == (0, 5)
    assert dataset.train.batch(np.arange(0)).shape == (0, 32, 32, 3)


def test_a_batch_is_a_copy(tmp_path: Path) -> None:
    archives.mnist(tmp_path / "raw")
    part = prepare("idx", tmp_path / "raw", tmp_path / "out", 28).train
    batch = part.batch(np.array([3, 0, 3]))
    assert np.array_equal(batch, part.images[[3, 0, 3]])
    batch[:] = 7
    assert not np.array_equal(part.images[3], batch[0])


def test_opening_is_fast_whatever_the_size(tmp_path: Path) -> None:
    count = 20_000
    labels = np.arange(count) % 10
    part = Part(Pixels(np.zeros((count, 32, 32, 3), np.uint8), "zeros"), labels)
    write_prepared(RawDataset(archives.DIGITS, part, part, 3), tmp_path / "out", name="zeros", size=32)
    start = time.perf_counter()
    open_prepared(tmp_path / "out")
    assert time.perf_counter() - start < 0.1


def test_preparing_again_does_nothing_and_new_sources_are_noticed(tmp_path: Path) -> None:
    archives.image_folder(tmp_path / "raw")
    first = prepare("image_folder", tmp_path / "raw", tmp_path / "out", 16)
    written = (tmp_path / "out" / "train_images.npy").stat().st_mtime_ns
    prepare("image_folder", tmp_path / "raw", tmp_path / "out", 16)
    assert (tmp_path / "out" / "train_images.npy").stat().st_mtime_ns == written
    changed = archives.encoded(archives.picture(9_999, 40, 30), "PNG")
    (tmp_path / "raw" / "train" / "cat" / "0.png").write_bytes(changed)
    second = prepare("image_folder", tmp_path / "raw", tmp_path / "out", 16)
    assert not np.array_equal(first.train.images[0], second.train.images[0])
    assert np.array_equal(second.train.images[0], decode(changed, 16, 3, where="x"))


# -------------------------------------------------------------------------------------- interrupted, together


def preparing(layout: str, raw: Path, folder: Path, pause: float) -> subprocess.Popen:
    """A process that prepares in chunks of 8 images with two workers, and after each prints a line and pauses."""
    program = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from openset_distill.datasets import decode_pool, prepare as preparation
        from openset_distill.datasets.readers import READERS

        if __name__ == "__main__":
            decode_pool.CHUNK = 8
            record = preparation._Journal.record

            def slow_record(journal, part, indices, notes):
                record(journal, part, indices, notes)
                print(len(indices), flush=True)
                time.sleep({pause})

            preparation._Journal.record = slow_record
            raw = READERS[{layout!r}](Path({str(raw)!r}))
            preparation.write_prepared(raw, {str(folder)!r}, name={layout!r}, size=32, workers=2)
        """
    )
    path = folder.parent / f"{folder.name}.py"
    path.write_text(program)
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("layout", ["tiny_imagenet", "cub"])
def test_killed_in_the_middle_and_run_again(layout: str, tmp_path: Path) -> None:
    """SIGKILL after some chunks; the second run keeps what was done, and the result is the same, bit for bit."""
    raw = tmp_path / "raw"
    getattr(archives, layout)(raw, classes=10, **({"train": 8} if layout == "tiny_imagenet" else {"per_class": 8}))
    with preparing(layout, raw, tmp_path / "out", pause=0.3) as process:
        for _ in range(2):
            assert process.stdout.readline() == "8\n"
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
    assert len(workers) >= 2
    assert eventually(lambda: not any(map(alive, workers))), "workers outlive the process that started them"
    assert not (tmp_path / "out").exists()
    journal = tmp_path / ".out.partial" / "journal"
    kept = len(journal.read_text().splitlines()) - 1
    assert kept >= 2
    with open(journal, "a") as stream:
        stream.write('["train", [7')  # as when the power fails while a line is written

    def chunks(folder: Path) -> int:
        with preparing(layout, raw, folder, pause=0) as process:
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        return len(output.splitlines())

    resumed, complete = chunks(tmp_path / "out"), chunks(tmp_path / "again")
    assert resumed <= complete - kept
    assert same_bytes(tmp_path / "out", tmp_path / "again")
    assert not (tmp_path / ".out.partial").exists()


def test_another_version_takes_what_is_finished_but_does_not_continue_what_is_not(tmp_path: Path, monkeypatch) -> None:
    raw, folder = tmp_path / "raw", tmp_path / "out"
    for part in ("train", "test"):
        path = raw / part / "ant" / "1.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (part == "test", 2, 3)).save(path)
    prepare("image_folder", raw, folder, 8)
    before = (folder / MANIFEST).stat().st_mtime_ns
    monkeypatch.setattr(preparation, "__version__", "9.9.9")
    prepare("image_folder", raw, folder, 8)
    assert (folder / MANIFEST).stat().st_mtime_ns == before
    assert "9.9.9" not in (folder / MANIFEST).read_text()
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"library_version": "0.1.0"}))
    assert "library_version" not in prepare("image_folder", raw, folder, 8).manifest
    decoded, tasks = decode_pool.decode_files, []

    def half(*arguments):
        for task in decoded(*arguments):
            tasks.append(task)
            yield task
            raise KeyboardInterrupt

    for version in ("9.9.9", "10.0.0"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(preparation, "__version__", version)
            patch.setattr(decode_pool, "decode_files", half)
            prepare("image_folder", raw, tmp_path / "cut", 8)
    assert [task.part for task in tasks] == ["train", "train"], "the second version began anew"


def test_a_resumed_preparation_has_the_notes_about_all_images(tmp_path: Path, monkeypatch) -> None:
    raw = tmp_path / "raw"
    for part in ("train", "test"):
        for number in range(6):
            path = raw / part / "ant" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGBA", (8, 8), (number, number, part == "test", 100 if number % 2 else 255)).save(path)
    monkeypatch.setattr(decode_pool, "CHUNK", 2)
    record, chunks = preparation._Journal.record, []

    def killed(journal, *chunk):
        record(journal, *chunk)
        chunks.append(chunk)
        if len(chunks) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(preparation._Journal, "record", killed)
        prepare("image_folder", raw, tmp_path / "out", 8)
    resumed = prepare("image_folder", raw, tmp_path / "out", 8)
    assert any(note.startswith("6 images have transparent pixels") for note in resumed.manifest["notes"])
    prepare("image_folder", raw, tmp_path / "again", 8)
    assert same_bytes(tmp_path / "out", tmp_path / "again")


def test_a_worker_that_dies_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    archives.tiny_imagenet(tmp_path / "raw", classes=10, train=8)
    with preparing("tiny_imagenet", tmp_path / "raw", tmp_path / "out", pause=0.3) as process:
        assert process.stdout.readline() == "8\n"
        for child in children(process.pid):  # as the kernel does when memory runs out
            os.kill(child, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "DataError: a worker process died" in errors
    assert "use fewer workers" in errors


def children(pid: int) -> list[int]:
    """The processes below `pid`, all generations."""
    direct = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return direct + [grandchild for child in direct for grandchild in children(child)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool]) -> bool:
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_partial_preparation_of_other_data_is_thrown_away(tmp_path: Path) -> None:
    archives.mnist(tmp_path / "raw")
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "journal").write_text('{"dataset": "another"}\n["train", [0, 1, 2]]\n')
    expected = prepare("idx", tmp_path / "raw", tmp_path / "other", 28)
    found = prepare("idx", tmp_path / "raw", tmp_path / "out", 28)
    assert np.array_equal(found.train.images, expected.train.images)
    assert not partial.exists()


def test_two_processes_at_once_both_succeed(tmp_path: Path) -> None:
    archives.tiny_imagenet(tmp_path / "raw", classes=20, train=10, test=5)
    command = prepare_command("tinyimagenet", tmp_path / "raw", tmp_path / "out" / "64x3", 64)
    full = [sys.executable, str(Path(__file__).parents[2] / "workflow_scripts" / command[0]), *map(str, command[1:])]
    processes = [subprocess.Popen(full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "200 training and 100 test images" in output
    dataset = open_prepared(tmp_path / "out" / "64x3")
    alone = prepare("tiny_imagenet", tmp_path / "raw", tmp_path / "alone", 64)
    assert np.array_equal(dataset.train.images, alone.train.images)


# ------------------------------------------------------------------------------------------------ bad input


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    files, _ = archives.image_folder_files()
    archives.write_zip(tmp_path / "pictures.zip", [*files, ("train/owl/zz.png", b"not an image")])
    for workers in (1, 2):
        with pytest.raises(DataError, match=r"pictures\.zip: train/owl/zz\.png cannot be decoded"):
            prepare("image_folder", tmp_path, tmp_path / "out", 16, workers=workers)
    assert not (tmp_path / "out").exists()


def test_flipped_bytes_in_a_zip_are_noticed(tmp_path: Path) -> None:
    archives.image_folder_zip(tmp_path / "pictures.zip")
    path = tmp_path / "pictures.zip"
    data = bytearray(path.read_bytes())
    position = data.find(b"IDAT") + 20
    data[position] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"pictures\.zip: train/cat/0\.png.*fetch it again"):
        prepare("image_folder", path, tmp_path / "out", 16)


def test_a_file_that_disappears_is_named(tmp_path: Path) -> None:
    archives.image_folder(tmp_path / "raw")
    raw = READERS["image_folder"](tmp_path / "raw")
    (tmp_path / "raw" / "test" / "dog" / "1.png").unlink()
    with pytest.raises(DataError, match=r"test/dog/1\.png cannot be read: No such file"):
        write_prepared(raw, tmp_path / "out", name="pictures", size=16)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range(label: int, tmp_path: Path) -> None:
    images = Pixels(np.zeros((4, 8, 8, 1), np.uint8), "images.bin")
    good, bad = Part(images, np.array([0, 1, 2, 0])), Part(images, np.array([0, 1, label, 0]))
    with pytest.raises(DataError, match=rf"images\.bin: image 2 \(test\) has label {label}, .* 3 classes"):
        write_prepared(RawDataset(("a", "b", "c"), good, bad, 1), tmp_path / "out", name="x", size=8)


def test_a_class_without_images(tmp_path: Path) -> None:
    part = Part(Pixels(np.zeros((2, 8, 8, 1), np.uint8), "x"), np.array([0, 2]))
    with pytest.raises(DataError, match="class 'b' has no images"):
        write_prepared(RawDataset(("a", "b", "c"), part, part, 1), tmp_path / "out", name="x", size=8)


def test_more_labels_than_images(tmp_path: Path) -> None:
    archives.mnist(tmp_path / "raw", train=20)
    shorter = tmp_path / "shorter"
    archives.mnist(shorter, train=10)
    (shorter / "train-images-idx3-ubyte.gz").replace(tmp_path / "raw" / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=r"train-images.* 10 images and 20 labels"):
        prepare("idx", tmp_path / "raw", tmp_path / "out", 28)


@contextmanager
def without_root_rights() -> Iterator[None]:
    """Root may write everywhere, so that a read-only folder stops it only when it acts as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_read_only_folder(tmp_path: Path) -> None:
    raw = READERS["embedded_digits"](None)
    target = tmp_path / "prepared"
    target.mkdir()
    target.chmod(0o555)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    with without_root_rights(), pytest.raises(DataError, match=r"cannot prepare digits in .*Permission denied; choose"):
        write_prepared(raw, target / "8x1", name="digits", size=8)
    assert list(target.iterdir()) == []


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    # the limit on the size of a file stands in for a full disk: the space of the arrays cannot be had
    program = textwrap.dedent(
        f"""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        from openset_distill.datasets.prepare import write_prepared
        from openset_distill.datasets.readers import READERS
        write_prepared(READERS["embedded_digits"](None), {str(tmp_path / "out")!r}, name="digits", size=8)
        """
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert process.returncode == 1  # an exception, not a signal
    assert "DataError: cannot prepare digits" in process.stderr
    assert "free space" in process.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    archives.mnist(tmp_path / "raw")
    prepare("idx", tmp_path / "raw", tmp_path / "out", 28)
    return tmp_path / "out"


def edit_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(manifest))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "manifest cut off": lambda folder: truncate(folder / MANIFEST),
    "manifest of something else": lambda folder: (folder / MANIFEST).write_text("[1]"),
    "manifest without counts": lambda folder: edit_manifest(folder, counts={}),
    "another format": lambda folder: edit_manifest(folder, format=99),
    "images missing": lambda folder: (folder / "train_images.npy").unlink(),
    "images cut off": lambda folder: truncate(folder / "test_images.npy"),
    "images empty": lambda folder: (folder / "test_images.npy").write_bytes(b""),
    "images of another shape": lambda folder: np.save(folder / "test_images.npy", np.zeros((10, 4, 4, 1), np.uint8)),
    "images of another type": lambda folder: np.save(folder / "test_images.npy", np.zeros((10, 28, 28, 1))),
    "objects": lambda folder: np.save(folder / "test_labels.npy", np.array([{}] * 10), allow_pickle=True),
    "labels cut off": lambda folder: truncate(folder / "train_labels.npy"),
    "labels too few": lambda folder: np.save(folder / "train_labels.npy", np.zeros(3, np.int64)),
    "labels out of range": lambda folder: np.save(folder / "train_labels.npy", np.full(20, 10)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_prepared_folder(damage: str, prepared: Path) -> None:
    DAMAGE[damage](prepared)
    with pytest.raises(DataError, match=rf"(?s){prepared}.*prepare"):
        open_prepared(prepared)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_prepared_folder_is_mended_by_preparing_again(damage: str, prepared: Path, tmp_path: Path) -> None:
    DAMAGE[damage](prepared)
    prepare("idx", tmp_path / "raw", prepared, 28)
    assert same_bytes(prepared, tmp_path / "out")
    open_prepared(prepared)


def bless(folder: Path) -> None:
    """Writes the checksums of the files as they are into the manifest, as somebody does who edits them by hand."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {file: sha256(folder / file) for file in DATA_FILES}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_images_that_changed_since_they_were_prepared_are_refused(prepared: Path) -> None:
    images = np.load(prepared / "train_images.npy")
    before = (prepared / "train_images.npy").stat()
    images[0] = 255 - images[0]
    np.save(prepared / "train_images.npy", images)
    with pytest.raises(DataError, match=r"train_images\.npy is not what was prepared"):
        open_prepared(prepared)
    # the same size and time: only the full check sees it
    os.utime(prepared / "train_images.npy", ns=(before.st_atime_ns, before.st_mtime_ns))
    open_prepared(prepared)
    with pytest.raises(DataError, match=r"train_images\.npy is not what was prepared"):
        verify(prepared)
    images[0] = 255 - images[0]
    np.save(prepared / "train_images.npy", images)
    verify(prepared)


def test_a_copy_is_checked_once_and_then_opened_at_once(prepared: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copied" / "28x1"
    shutil.copytree(prepared, copy)  # as `dvc pull` and `git clone` do: other times, the same bytes
    (copy / "test_labels.npy").touch()
    open_prepared(copy)
    assert (copy.parent / f".{copy.name}.checked").is_file()
    assert {path.name for path in copy.iterdir()} == {*DATA_FILES, MANIFEST}
    durations = []
    for _ in range(5):
        start = time.perf_counter()
        open_prepared(copy)
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.02
    # what is remembered of another preparation, or damaged, counts for nothing
    for text in ("{", "[]", '{"files": {}, "status": {}}', "[" * 100_000):
        (copy.parent / f".{copy.name}.checked").write_text(text)
        open_prepared(copy)


MANIFESTS = {
    "no mapping": lambda manifest: [],
    "size is text": lambda manifest: manifest | {"size": "28"},
    "size is absurd": lambda manifest: manifest | {"size": 10**9},
    "classes are one text": lambda manifest: manifest | {"classes": "0123456789"},
    "classes are numbers": lambda manifest: manifest | {"classes": list(range(10))},
    "counts are negative": lambda manifest: manifest | {"counts": {"train": -1, "test": -1}},
    "counts are a list": lambda manifest: manifest | {"counts": [1, 2]},
    "no checksums": lambda manifest: {key: value for key, value in manifest.items() if key != "files"},
    "checksums are null": lambda manifest: manifest | {"files": None},
    "an index without its archives": lambda manifest: manifest | {"storage": "index"},
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_a_manifest_of_wrong_contents_is_named(change: str, prepared: Path) -> None:
    manifest = json.loads((prepared / MANIFEST).read_text())
    (prepared / MANIFEST).write_text(json.dumps(MANIFESTS[change](manifest)))
    with pytest.raises(DataError, match=r"manifest\.json is damaged") as caught:
        open_prepared(prepared)
    assert "\n" not in str(caught.value)


JOURNALS = {
    "no text": lambda folder: (folder / "journal").write_bytes(b"\xff\xfe"),
    "no JSON": lambda folder: (folder / "journal").write_text(head(folder) + "[1\n"),
    "no list": lambda folder: (folder / "journal").write_text(head(folder) + "5\n"),
    "another part": lambda folder: (folder / "journal").write_text(head(folder) + '["validation", [0], {}]\n'),
    "an index beyond": lambda folder: (folder / "journal").write_text(head(folder) + '["train", [10000000], {}]\n'),
    "a negative index": lambda folder: (folder / "journal").write_text(head(folder) + '["train", [-1], {}]\n'),
    "no numbers": lambda folder: (folder / "journal").write_text(head(folder) + '["train", ["a"], {}]\n'),
    "fractions": lambda folder: (folder / "journal").write_text(head(folder) + '["train", [0.5], {}]\n'),
    "of a version before": lambda folder: (folder / "journal").write_text(head(folder) + '["train", [0]]\n'),
    "notes that are none": lambda folder: (folder / "journal").write_text(head(folder) + '["train", [0], {"x": 1}]\n'),
    "nested": lambda folder: (folder / "journal").write_text(head(folder) + "[" * 100_000 + "\n"),
    "images cut off": lambda folder: truncate(folder / "train_images.npy"),
    "images of another size": lambda folder: np.save(folder / "train_images.npy", np.zeros((2, 2, 2, 1), np.uint8)),
    "no images": lambda folder: (folder / "test_images.npy").unlink(),
}


def head(folder: Path) -> str:
    return (folder / "journal").read_text().split("\n")[0] + "\n"


@pytest.mark.parametrize("damage", JOURNALS)
def test_a_damaged_journal_starts_anew_and_says_so(damage: str, tmp_path: Path, monkeypatch, capsys) -> None:
    raw, folder = tmp_path / "raw", tmp_path / "out"
    archives.mnist(raw)
    monkeypatch.setattr(decode_pool, "CHUNK", 8)
    record = preparation._Journal.record

    def killed(journal, part, indices, notes):
        record(journal, part, indices, notes)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(preparation._Journal, "record", killed)
        prepare("idx", raw, folder, 28)
    JOURNALS[damage](tmp_path / ".out.partial")
    prepare("idx", raw, folder, 28)
    assert capsys.readouterr().out.count("it starts anew") == 1
    prepare("idx", raw, tmp_path / "again", 28)
    assert same_bytes(folder, tmp_path / "again")
    assert not (tmp_path / ".out.partial").exists()


def test_what_others_put_into_the_folder_of_a_preparation_is_kept(tmp_path: Path) -> None:
    archives.mnist(tmp_path / "raw")
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "thesis.md").write_text("mine")
    with pytest.raises(DataError, match="cannot prepare"):
        prepare("idx", tmp_path / "raw", tmp_path / "out", 28)
    assert (tmp_path / ".out.partial" / "thesis.md").read_text() == "mine"


# -------------------------------------------------------------------------------------------- ImageNet scale


def test_imagenet_is_indexed_and_decoded_when_asked_for(tmp_path: Path) -> None:
    expected = archives.imagenet(tmp_path / "raw", classes=3, train=3, test=2)
    dataset = prepare("imagenet", tmp_path / "raw", tmp_path / "out", 48)
    assert dataset.manifest["storage"] == "index"
    assert dataset.classes == expected.classes
    for part, rows in ((dataset.train, expected.train), (dataset.test, expected.test)):
        assert isinstance(part, StreamedImages)
        assert len(part) == len(rows)
        assert part.shape == (48, 48, 3)
        assert part.labels.tolist() == [label for _, label in rows]
        chosen = np.array([len(rows) - 1, 0, 2])
        wanted = np.stack([decode(rows[index][0], 48, 3, where="x") for index in chosen])
        batch = part.batch(chosen)
        assert batch.dtype == np.uint8
        assert np.array_equal(batch, wanted)
    # the index is small: no pixel was decoded in advance
    assert sum(file.stat().st_size for file in (tmp_path / "out").iterdir()) < 10_000


def test_imagenet_images_as_files(tmp_path: Path) -> None:
    data = archives.encoded(archives.picture(4, 60, 70))
    for part in ("train", "val"):
        (tmp_path / "raw" / part / "n00000001").mkdir(parents=True)
        (tmp_path / "raw" / part / "n00000001" / "a.JPEG").write_bytes(data)
    dataset = prepare("imagenet", tmp_path / "raw", tmp_path / "out", 32)
    assert np.array_equal(dataset.test.batch(np.array([0]))[0], decode(data, 32, 3, where="x"))
    (tmp_path / "raw" / "val" / "n00000001" / "a.JPEG").unlink()
    with pytest.raises(DataError, match=r"val/n00000001/a\.JPEG cannot be read: No such file"):
        dataset.test.batch(np.array([0]))


def test_an_archive_that_changed_since_its_images_were_listed(tmp_path: Path) -> None:
    archives.imagenet(tmp_path / "raw")
    prepare("imagenet", tmp_path / "raw", tmp_path / "out", 32)
    truncate(tmp_path / "raw" / "ILSVRC2012_img_val.tar")
    with pytest.raises(DataError, match=r"ILSVRC2012_img_val\.tar has changed since its images were listed"):
        open_prepared(tmp_path / "out")


def test_indexed_archive_that_was_cut_off_afterwards(tmp_path: Path) -> None:
    archives.imagenet(tmp_path / "raw")
    dataset = prepare("imagenet", tmp_path / "raw", tmp_path / "out", 32)
    truncate(tmp_path / "raw" / "ILSVRC2012_img_val.tar")
    with pytest.raises(DataError, match=r"ILSVRC2012_img_val\.tar: the image at byte \d+ is cut off"):
        dataset.test.batch(np.arange(len(dataset.test)))


def test_indexed_image_that_is_no_image(tmp_path: Path) -> None:
    archives.imagenet(tmp_path / "raw")
    archives.write_tar(
        tmp_path / "raw" / "ILSVRC2012_img_val.tar", [(f"val_{i}.JPEG", b"not an image") for i in range(6)], "w"
    )
    dataset = prepare("imagenet", tmp_path / "raw", tmp_path / "out", 32)
    with pytest.raises(DataError, match=r"ILSVRC2012_img_val\.tar: the image at byte \d+ cannot be decoded"):
        dataset.test.batch(np.array([1]))


def test_index_file_of_pixels_is_damaged(tmp_path: Path) -> None:
    archives.imagenet(tmp_path / "raw")
    prepare("imagenet", tmp_path / "raw", tmp_path / "out", 32)
    np.save(tmp_path / "out" / "test_images.npy", np.zeros((6, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match="not what was prepared"):
        open_prepared(tmp_path / "out")
    bless(tmp_path / "out")
    with pytest.raises(DataError, match="an index"):
        open_prepared(tmp_path / "out")


def test_index_keeps_long_paths() -> None:
    name = "train/n00000001/" + "x" * 200 + ".JPEG"
    images = Indexed.of(Path("raw"), [(name, 0, -1), ("a", 5, 7)])
    assert images.where(0) == f"raw/{name}"
    assert images.where(1) == "raw/a: the image at byte 5"


# -------------------------------------------------------------------------------------------------- command


def test_command_prepares_and_tells_what_is_missing(tmp_path: Path) -> None:
    archives.tiny_imagenet(tmp_path / "raw", classes=5, present=[0, 1, 2])
    command = prepare_command("tinyimagenet", tmp_path / "raw", tmp_path / "64x3", 64, "--workers", 2, "--channels", 3)
    output = succeed(script(*command)).stdout
    assert "12 training and 10 test images" in output
    assert "2 of 5 classes have no training images" in output
    assert open_prepared(tmp_path / "64x3").manifest["licence"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--size": "0"}, ("--size", "at least 1")),
        ({"--dataset": "tinyimagnet"}, ("tinyimagnet", "did you mean 'tinyimagenet'")),
        ({"--raw": "nowhere"}, ("nowhere", "download")),
        ({"--train-labels": "elsewhere/train_labels.npy"}, ("one folder", "elsewhere/train_labels.npy")),
        ({"--raw": None}, ("--raw",)),
    ],
)
def test_command_refuses(change: dict[str, str | None], words: tuple[str, ...], tmp_path: Path) -> None:
    command = prepare_command("tinyimagenet", tmp_path, tmp_path / "out", 64)
    for option, value in change.items():
        position = command.index(option)
        command[position : position + 2] = [] if value is None else [option, value]
    process = script(*command)
    assert process.returncode == 2
    assert process.stderr.startswith("error: ")
    assert len(process.stderr.splitlines()) == 1
    for word in words:
        assert word in process.stderr


# ------------------------------------------------------------------------------------------------- real data


@pytest.mark.real_data
def test_real_tiny_imagenet(tmp_path: Path) -> None:
    raw = archives.mirrored("tiny-imagenet-200.zip")
    start = time.perf_counter()
    dataset = prepare("tiny_imagenet", raw, tmp_path / "out", 64, workers=os.cpu_count())
    seconds = time.perf_counter() - start
    assert len(dataset.classes) == 200
    assert list(dataset.classes) == sorted(dataset.classes)
    assert dataset.classes[0] == "n01443537"
    assert dataset.classes[-1] == "n12267677"
    assert dataset.manifest["per_class"]["test"] == [50] * 200
    assert set(dataset.manifest["per_class"]["train"]) <= {0, 500}
    images = len(dataset.train) + len(dataset.test)
    assert seconds < 60 * images / 60_000, f"{images} images took {seconds:.0f} s"


@pytest.mark.real_data
def test_real_cifar10_images(tmp_path: Path) -> None:
    dataset = prepare(
        "image_folder", archives.mirrored("cifar-10-images.zip"), tmp_path / "out", 32, workers=os.cpu_count()
    )
    assert dataset.classes == archives.CIFAR10
    assert dataset.manifest["per_class"] == {"train": [5000] * 10, "test": [1000] * 10}
    # a plane's sky is blue on the average, and a frog's surroundings are not
    blue_over_red = [
        np.diff(dataset.test.images[dataset.test.labels == label].mean((0, 1, 2))[[0, 2]])[0] for label in (0, 6)
    ]
    assert blue_over_red[0] > 10 > 0 > blue_over_red[1]

"""Images of every kind, as files and in memory: the same pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from openset_distill.core.errors import DataError
from openset_distill.recognition.description import Preprocessing
from openset_distill.recognition.images import decoded_batches, find_images, sources_of

HOW = {channels: Preprocessing(image_size=24, channels=channels, mean=(0.5,), std=(0.5,)) for channels in (1, 3)}


def scene() -> Image.Image:
    """Smooth colours with sharp edges, 17 times as large as the network's input: decoders may take short cuts."""
    small = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((560, 420), Image.Resampling.NEAREST)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    scene().save(path, exif=exif)


def clear_colour(path: Path) -> None:
    scene().quantize(20).save(path, transparency=3)


def sixteen_bits(path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 65_536, (50, 60), dtype=np.uint16)
    Image.fromarray(values).save(path)


def half_transparent(path: Path) -> None:
    image = scene().convert("RGBA")
    image.putalpha(Image.fromarray(np.arange(560 * 420, dtype=np.uint32).astype(np.uint8).reshape(420, 560)))
    image.save(path)


KINDS: dict[str, Callable[[Path], None]] = {
    "large.jpg": lambda path: scene().save(path, quality=85),
    "colours.png": lambda path: scene().save(path),
    "palette.png": lambda path: scene().quantize(20).save(path),
    "cmyk.jpg": lambda path: scene().convert("CMYK").save(path),
    "turned.jpg": turned,
    "turned.png": turned,
    "clear.png": clear_colour,
    "half_transparent.png": half_transparent,
    "sixteen_bits.png": sixteen_bits,
    "grey.jpg": lambda path: scene().convert("L").save(path),
    "photograph.webp": lambda path: scene().save(path),
}


def pixels(given: object, channels: int) -> np.ndarray:
    [[decoded]] = decoded_batches(sources_of(given), HOW[channels])
    return decoded.pixels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_a_picture_in_memory_has_the_pixels_of_its_file(name: str, channels: int, tmp_path: Path):
    path = tmp_path / name
    KINDS[name](path)
    of_file = pixels(path, channels)
    assert of_file.shape == (24, 24, channels)
    assert of_file.std() > 5
    np.testing.assert_array_equal(pixels(Image.open(path), channels), of_file)
    loaded = Image.open(path)
    loaded.load()
    np.testing.assert_array_equal(pixels(loaded, channels), of_file)
    if name not in ("clear.png", "half_transparent.png", "sixteen_bits.png"):  # a plain conversion loses these
        plain = ImageOps.exif_transpose(Image.open(path)).convert("L" if channels == 1 else "RGB")
        np.testing.assert_array_equal(pixels(plain, channels), of_file)
        np.testing.assert_array_equal(pixels(np.asarray(plain), channels), of_file)


def test_one_opened_picture_may_be_given_many_times(tmp_path: Path):
    scene().save(tmp_path / "a.jpg")
    image = Image.open(tmp_path / "a.jpg")
    [batch] = decoded_batches(sources_of([image] * 20), HOW[3], workers=4)
    for decoded in batch:
        np.testing.assert_array_equal(decoded.pixels, pixels(tmp_path / "a.jpg", 3))


def test_folders_that_link_to_each_other_end(tmp_path: Path):
    """Every one of 12 folders links to all others: followed without memory these are a billion paths."""
    folders = [tmp_path / "images" / "cat" / str(number) for number in range(12)]
    for folder in folders:
        folder.mkdir(parents=True)
        scene().resize((9, 9)).save(folder / "a.png")
        for other in folders:
            if other is not folder:
                (folder / f"to_{other.name}").symlink_to(other)
    found = [source.name for source in find_images([tmp_path / "images"])]
    assert len(found) == 12
    assert found == sorted(found)


def test_what_cannot_be_followed_is_told_and_other_files_are_not(tmp_path: Path):
    for name in ("a.png", "classes", "notes.txt"):
        (tmp_path / name).symlink_to(tmp_path / "never_fetched")
    (tmp_path / "README.txt").write_text("no image")
    errors = {Path(source.name).name: source.error for source in find_images([tmp_path])}
    assert set(errors) == {"a.png", "classes"}
    assert all("never_fetched, which cannot be followed" in error for error in errors.values())


def test_a_damaged_picture_in_memory_is_one_line(tmp_path: Path):
    scene().save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"image 0 cannot be read .*; convert it to RGB or leave it out"):
        pixels(Image.open(tmp_path / "a.png"), 3)
    with pytest.raises(DataError, match="no known range"):
        pixels(Image.new("F", (30, 30)), 3)

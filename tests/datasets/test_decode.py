"""Images as users have them, decoded: kinds of pixels, files that are no images, and what a log is told."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openset_distill.core.errors import DataError
from openset_distill.datasets.decode import FORMATS, GROUND, NOTES, decode, open_image

RED = (200, 10, 30)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(depth: int, colour: int, samples: list[int], clear: tuple[int, ...] = ()) -> bytes:
    """A PNG of one row, with a depth and colour type that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    row = b"\0" + struct.pack(f">{len(samples)}{'H' if depth == 16 else 'B'}", *samples)
    head = struct.pack(">IIBBBBB", len(samples) // channels, 1, depth, colour, 0, 0, 0)
    transparency = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear)) if clear else b""
    body = chunk(b"IHDR", head) + transparency + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


# ------------------------------------------------------------------------------------------------- transparency


def half_hidden(mode: str) -> bytes:
    """2 x 1 pixels: the left one opaque, the right one transparent over the same hidden colour."""
    rgba = Image.new("RGBA", (2, 1), (*RED, 255))
    rgba.putpixel((1, 0), (*RED, 0))
    if mode == "RGBA":
        return saved(rgba)
    if mode == "LA":
        return saved(rgba.convert("LA"))
    if mode == "WEBP":
        return saved(rgba, "WEBP", lossless=True, exact=True)
    if mode == "TIFF":
        return saved(rgba, "TIFF")
    if mode == "GIF":
        palette = Image.new("P", (2, 1))
        palette.putpalette([*RED, *RED])
        palette.putpixel((1, 0), 1)
        return saved(palette, "GIF", transparency=1)
    if mode == "palette":
        palette = Image.new("P", (2, 1))
        palette.putpalette([*RED, *RED])
        palette.putpixel((1, 0), 1)
        return saved(palette, transparency=b"\xff\x00")
    if mode == "RGB key":
        return png(8, 2, [*RED, 1, 2, 3], (1, 2, 3))
    if mode == "grey key":
        return png(8, 0, [50, 60], (60,))
    if mode == "16-bit grey key":
        return png(16, 0, [50 << 8, 60 << 8], (60 << 8,))
    if mode == "16-bit RGB key":
        return png(16, 2, [200 << 8, 10 << 8, 30 << 8, 256, 512, 768], (256, 512, 768))
    return png(16, 6, [200 << 8, 10 << 8, 30 << 8, 65535, 200 << 8, 10 << 8, 30 << 8, 0])


TRANSPARENT = ["RGBA", "LA", "WEBP", "TIFF", "GIF", "palette", "RGB key", "grey key"]
TRANSPARENT += ["16-bit grey key", "16-bit RGB key", "16-bit RGBA"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", TRANSPARENT)
def test_what_is_hidden_is_laid_on_white(mode: str, channels: int) -> None:
    notes: Counter[str] = Counter()
    pixels = open_image(half_hidden(mode), channels, notes=notes)
    assert pixels.shape == (1, 2, channels)
    assert pixels[0, 1].tolist() == list(GROUND[:channels])
    grey = mode in ("LA", "grey key", "16-bit grey key")
    wanted = {"LA": 69, "grey key": 50, "16-bit grey key": 50}.get(mode, RED) if channels == 3 else None
    if wanted is not None:
        assert pixels[0, 0].tolist() == ([wanted] * 3 if grey else list(wanted))
    else:
        assert pixels[0, 0, 0] < 80
    assert notes == {"transparent": 1}


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    pixels = open_image(saved(Image.new("RGBA", (1, 1), (0, 0, 0, 51))))
    assert pixels[0, 0].tolist() == [204, 204, 204]


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    generator = np.random.default_rng(0)
    rgb = generator.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    rgba = np.concatenate([rgb, np.full((9, 7, 1), 255, np.uint8)], axis=2)
    notes: Counter[str] = Counter()
    assert np.array_equal(open_image(saved(Image.fromarray(rgba)), notes=notes), rgb)
    assert not +notes


def test_shapes_on_a_transparent_ground_differ() -> None:
    """Black shapes in an image whose hidden colour is black, too: the whole image used to be black."""
    images = []
    for width in (2, 4, 6):
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), (0, 0, width, 8))
        images.append(decode(saved(image), 8, 3))
    assert [int((image[..., 0] == 0).sum()) for image in images] == [16, 32, 48]


# ---------------------------------------------------------------------------------------------- kinds of pixels


def test_lab_and_cmyk_become_rgb() -> None:
    lab = Image.frombytes("LAB", (1, 1), bytes((255, 0, 0)))
    assert open_image(saved(lab, "TIFF"))[0, 0].min() > 250
    ink = open_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))[4, 4]
    assert ink[0] > 200 > 60 > ink[1]


def test_sixteen_bits_are_scaled_and_twelve_in_sixteen_are_stretched() -> None:
    values = np.arange(0, 4096, 16, dtype=np.uint16).reshape(16, 16)
    notes: Counter[str] = Counter()
    found = open_image(saved(Image.fromarray(values)), 1, notes=notes)
    assert np.array_equal(found[..., 0], values >> 4)
    assert +notes == {"twelve_bit": 1}
    bright = values.copy()
    bright[0, 0] = 65535
    notes.clear()
    assert np.array_equal(open_image(saved(Image.fromarray(bright)), 1, notes=notes)[..., 0], bright >> 8)
    assert not +notes


def test_a_black_sixteen_bit_image_stays_black_without_a_note() -> None:
    notes: Counter[str] = Counter()
    assert open_image(saved(Image.fromarray(np.zeros((4, 4), np.uint16))), notes=notes).max() == 0
    assert not +notes


@pytest.mark.parametrize(("top", "noted"), [(4095, {"dark": 1}), (65535, {})])
def test_sixteen_bit_colours_that_are_nearly_black_are_told(top: int, noted: dict[str, int]) -> None:
    notes: Counter[str] = Counter()
    open_image(png(16, 2, [top, top // 2, 0] * 2), notes=notes)
    assert +notes == noted


def test_a_netpbm_image_names_its_own_range() -> None:
    data = b"P5 2 1 4095\n" + struct.pack(">2H", 4095, 0)
    assert open_image(data, 1).reshape(-1).tolist() == [255, 0]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames_is_used(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    notes: Counter[str] = Counter()
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert open_image(data, notes=notes)[0, 0].argmax() == 0
    assert +notes == {"first_frame": 1}


def test_upright_at_full_size() -> None:
    image = Image.new("RGB", (4, 2))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter clockwise to be seen
    found = open_image(saved(image, "PNG", exif=exif))
    assert found.shape == (4, 2, 3)
    assert found[0, 1].tolist() == [255, 255, 255]


def test_a_path_is_decoded_like_its_bytes(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 30, 3), dtype=np.uint8))
    data = saved(image, "JPEG")
    (tmp_path / "a.jpg").write_bytes(data)
    assert np.array_equal(open_image(tmp_path / "a.jpg"), open_image(data))
    assert np.array_equal(decode(str(tmp_path / "a.jpg"), 8, 1), decode(data, 8, 1))


# ------------------------------------------------------------------------------------------ what is no image


@pytest.mark.parametrize(
    "start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xc5\xd0\xd3\xc6" + bytes(40)]
)
def test_no_program_is_started(start: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would start Ghostscript for a PostScript file, whatever its name."""
    for name in ("gs", "gswin64c"):
        program = tmp_path / name
        program.write_text(f"#!{sys.executable}\nopen({str(tmp_path / 'started')!r}, 'w')\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "a.png").write_bytes(start + b"%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(DataError, match=r"a\.png cannot be decoded .*(PostScript|EPS).*convert it to PNG"):
        open_image(tmp_path / "a.png")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (bytes(5000), "only zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!doctype html><html>", "web page"),
        (b"\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"PK\x03\x04rest", "zip archive; unpack"),
        (b"import os", "no format that is read"),
    ],
)
def test_what_is_no_image_is_called_by_its_name(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as raised:
        decode(data, 8, 3, where="x.png")
    assert str(raised.value).startswith("x.png ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["TGA", "ICO", "PCX", "SGI", "IM"])
def test_only_the_listed_formats_are_opened(kind: str) -> None:
    assert kind not in FORMATS
    with pytest.raises(DataError, match="convert it to PNG"):
        open_image(saved(Image.new("L", (16, 16)), kind))


def test_too_many_pixels_have_their_own_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    data = saved(Image.new("1", (2000, 1001)))
    with pytest.raises(DataError, match=r"more pixels than are decoded \(the most is 2 million\); save a smaller copy"):
        decode(data, 8, 3, where="big.png")


def test_floats_have_no_range() -> None:
    with pytest.raises(DataError, match=r"mode F have no known range; save it as an 8-bit image$"):
        open_image(saved(Image.new("F", (4, 4)), "TIFF"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    odd = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    for path, words in (
        (tmp_path / "pipe.png", "named pipe"),
        (tmp_path / "folder.png", "a folder"),
        (tmp_path / "gone.png", "a link to a file that is not there"),
        (tmp_path / "circle.png", "cannot be read"),
        (tmp_path / "none.png", "No such file"),
        (os.fsdecode(odd), r"caf\\xe9\.png cannot be read"),
    ):
        with pytest.raises(DataError, match=words) as raised:
            open_image(path)
        str(raised.value).encode()  # printable on every terminal


def test_a_name_that_is_no_utf8_is_opened(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    with open(path, "wb") as stream:
        stream.write(saved(Image.new("RGB", (3, 2), RED)))
    assert open_image(os.fsdecode(path)).shape == (2, 3, 3)


def test_every_note_is_explained() -> None:
    assert set(NOTES) == {"transparent", "twelve_bit", "dark", "first_frame"}

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from openset_distill.core.errors import DataError
from openset_distill.datasets import archives
from openset_distill.datasets.archives import open_archive, read_compressed
from openset_distill.datasets.readers import READERS

FILES = {"a/one.txt": b"first", "a/b/two.bin": bytes(range(256)) * 9, "empty": b"", "three": b"\n" * 512}
TAR_MODES = {".tar": "w", ".tar.gz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
KINDS = [".zip", *TAR_MODES]


def make(path, files=FILES):
    """Writes an archive of the kind that the file name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, TAR_MODES["".join(path.suffixes)]) as archive:
            for name, data in files.items():
                archive.addfile(entry(name, size=len(data)), io.BytesIO(data))
    return path


def entry(name, **attributes):
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def tar_of(path, *infos):
    with tarfile.open(path, "w") as archive:
        for info in infos:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def contents(path):
    with open_archive(path) as archive:
        return {member.name: member.read() for member in archive}


# ---------------------------------------------------------------------------------------- good archives


@pytest.mark.parametrize("kind", KINDS)
def test_members_come_in_order_with_their_contents(tmp_path, kind):
    path = make(tmp_path / f"x{kind}")
    with open_archive(path) as archive:
        found = [(member.name, member.size, member.read()) for member in archive]
    assert found == [(name, len(data), data) for name, data in FILES.items()]
    assert archive.random_access == (kind == ".zip")


@pytest.mark.parametrize("kind", KINDS)
def test_members_can_be_skipped(tmp_path, kind):
    with open_archive(make(tmp_path / f"x{kind}")) as archive:
        assert [member.read() for member in archive if member.name == "a/b/two.bin"] == [FILES["a/b/two.bin"]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_seen_in_the_contents_not_in_the_name(tmp_path, kind):
    path = make(tmp_path / f"x{kind}").rename(tmp_path / "download")
    assert contents(path) == FILES


@pytest.mark.parametrize("name", ["PK/1.jpg", "BZh9/1.jpg"])
def test_a_tar_whose_first_name_looks_like_another_archive(tmp_path, name):
    assert contents(make(tmp_path / "x.tar", {name: b"x"})) == {name: b"x"}


def test_zip_members_are_read_by_name_in_any_order(tmp_path):
    with open_archive(make(tmp_path / "x.zip")) as archive:
        assert archive["three"].read() == FILES["three"]
        assert archive["a/one.txt"].read() == archive["a/one.txt"].read() == b"first"
        with pytest.raises(DataError, match="'four'"):
            archive["four"]


def test_a_tar_archive_is_read_once_from_front_to_back(tmp_path):
    path = make(tmp_path / "x.tar.gz")
    with open_archive(path) as archive:
        first, *_ = list(archive)
        with pytest.raises(DataError, match="front to back"):
            first.read()
        with pytest.raises(DataError, match="open it again"):
            list(archive)


def test_folders_are_not_members_and_dot_slash_is_dropped(tmp_path):
    path = tmp_path / "x.tar"
    tar_of(path, entry("./", type=tarfile.DIRTYPE), entry("./d/", type=tarfile.DIRTYPE), entry("./d/./f", size=3))
    assert contents(path) == {"d/f": b"\0\0\0"}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.mkdir("d")
        archive.writestr("d/f", b"abc")
    assert contents(tmp_path / "x.zip") == {"d/f": b"abc"}


def test_long_names_survive(tmp_path):
    name = "/".join(["folder" * 10] * 5) + "/é.jpg"
    assert contents(make(tmp_path / "x.tar", {name: b"x"})) == {name: b"x"}


@pytest.mark.parametrize("opener", [open, gzip.open, bz2.open, lzma.open])
def test_single_compressed_files(tmp_path, opener):
    with opener(tmp_path / "labels", "wb") as stream:
        stream.write(b"12345")
    assert read_compressed(tmp_path / "labels") == b"12345"


# ----------------------------------------------------------------------------------------- hostile names

NAMES = ["/etc/passwd", "../x", "a/../../x", "a/..", "C:/x", "c:x", "..\\x", "a\\b", "\\\\server\\x", "a\nb", "a\x1bb"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_names_that_leave_the_folder_are_refused(tmp_path, kind, name):
    path = make(tmp_path / f"x{kind}", {"fine": b"1", name: b"2"})
    with pytest.raises(DataError, match="not a plain relative path"):
        contents(path)


@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_an_empty_name_is_refused(tmp_path, kind):
    with pytest.raises(DataError, match="not a plain relative path"):
        contents(make(tmp_path / f"x{kind}", {".": b"x"}))


def test_a_zero_byte_in_a_name_is_refused(tmp_path):
    path = make(tmp_path / "x.zip", {"nameQ.jpg": b"1"})
    path.write_bytes(path.read_bytes().replace(b"nameQ", b"name\0"))
    with pytest.raises(DataError, match=r"not a plain relative path|cannot be read"):
        contents(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", [".zip", ".tar"])
def test_two_members_of_one_name_are_refused(tmp_path, kind):
    path = tmp_path / f"x{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/b", b"1")
            archive.writestr("a/b", b"2")
    else:
        tar_of(path, entry("a/b"), entry("./a//b"))
    with pytest.raises(DataError, match="two members named 'a/b'"):
        contents(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_in_tar_archives_are_refused(tmp_path, kind):
    path = tar_of(tmp_path / "x.tar", entry("a"), entry("b", type=kind, linkname="/etc/passwd"))
    with pytest.raises(DataError, match=r"x\.tar: b is a link or a special file"):
        contents(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_in_zip_archives_are_refused(tmp_path, kind):
    info = zipfile.ZipInfo("b")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="b is a link or a special file"):
        contents(tmp_path / "x.zip")


def test_encrypted_zip_archives_are_refused(tmp_path):
    path = make(tmp_path / "x.zip", {"secret": b"1"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the local header, and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"secret is encrypted.*password"):
        contents(path)


# --------------------------------------------------------------------------------------------- bombs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("TOTAL_BYTES", 2820, "unpacks to more than 2820 bytes"),
        ("MEMBER_BYTES", 2303, r"two\.bin has 2304 bytes, and at most 2303 are read"),
        ("MEMBERS", 3, "more than 3 members"),
    ],
)
def test_limits_of_bytes_and_members(tmp_path, monkeypatch, kind, limit, value, words):
    path = make(tmp_path / f"x{kind}")
    assert sum(map(len, FILES.values())) == 2821
    monkeypatch.setattr(archives, limit, value)
    with pytest.raises(DataError, match=words):
        contents(path)
    if limit != "TOTAL_BYTES" or kind == ".zip":  # of a tar archive headers count too
        monkeypatch.setattr(archives, limit, value + 1)
        assert contents(path) == FILES


@pytest.mark.parametrize("kind", [".zip", ".tar.gz", ".tar.xz"])
def test_bombs_are_refused_by_their_ratio_without_being_unpacked(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archives, "RATIO_MATTERS_FROM", 100_000)
    path = make(tmp_path / f"x{kind}", {"zeros": bytes(2_000_000)})
    monkeypatch.setattr(archives, "RATIO", 50)
    with pytest.raises(DataError, match="more than 50 times its size"):
        contents(path)
    monkeypatch.setattr(archives, "RATIO", 100_000)
    assert len(contents(path)["zeros"]) == 2_000_000


def test_a_flood_behind_a_small_tar_is_counted(tmp_path, monkeypatch):
    path = tmp_path / "x.tar.gz"
    plain = make(tmp_path / "x.tar", {"a": b"1"}).read_bytes()
    with gzip.open(path, "wb") as stream:
        stream.write(plain + bytes(3_000_000))
    monkeypatch.setattr(archives, "TOTAL_BYTES", 1_000_000)
    with pytest.raises(DataError, match="unpacks to more than"):
        contents(path)


def test_a_large_tar_header_is_not_taken_into_memory(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**40
    (tmp_path / "x.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(DataError, match="asks for 1099511627776 bytes at once"):
        contents(tmp_path / "x.tar")


def test_a_chain_of_tar_headers_ends(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    (tmp_path / "x.tar").write_bytes((header.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * 3000)
    with pytest.raises(DataError, match="cannot be read"):
        contents(tmp_path / "x.tar")


def test_compressed_files_have_limits_too(tmp_path, monkeypatch):
    with gzip.open(tmp_path / "x.gz", "wb") as stream:
        stream.write(bytes(100_000))
    monkeypatch.setattr(archives, "MEMBER_BYTES", 99_999)
    with pytest.raises(DataError, match="more than 99999 bytes"):
        read_compressed(tmp_path / "x.gz")


def test_a_zip_member_longer_than_announced_is_refused(tmp_path):
    path = make(tmp_path / "x.zip", {"a": bytes(1000)})
    data = path.read_bytes()
    assert data.count((1000).to_bytes(4, "little")) == 2
    path.write_bytes(data.replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DataError, match="damaged"):
        contents(path)


# ------------------------------------------------------------------------------------- damaged archives


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_is_noticed(tmp_path, kind):
    whole = make(tmp_path / f"x{kind}").read_bytes()
    # an uncompressed tar archive has zeros behind its end mark, which nobody misses
    end = len(whole) if kind != ".tar" else len(whole.rstrip(b"\0\n")) + 1024
    for length in np.linspace(0, end - 1, 40, dtype=int):
        path = tmp_path / "cut"
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="cut"):
            contents(path)


@pytest.mark.parametrize("kind", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_flipped_bits_are_noticed_or_harmless(tmp_path, kind):
    whole = make(tmp_path / f"x{kind}").read_bytes()
    noticed = 0
    for position in np.linspace(0, len(whole) - 1, 60, dtype=int):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        try:
            found = contents(path)
        except DataError:
            noticed += 1
        else:  # a time, a name, a permission; never the contents
            assert sorted(found.values()) == sorted(FILES.values())
    assert noticed >= 15


def test_a_member_that_is_cut_is_never_returned(tmp_path):
    whole = make(tmp_path / "x.tar", {"a": bytes(5000)}).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:2000])
    with open_archive(tmp_path / "x.tar") as archive, pytest.raises(DataError, match="unexpected end of data"):
        next(iter(archive)).read()


def test_a_wrong_checksum_at_the_end_is_noticed(tmp_path):
    # what follows the end mark is more than is read ahead
    plain = make(tmp_path / "x.tar", {"a": b"1"}).read_bytes() + bytes(3 * 1024**2)
    packed = bytearray(gzip.compress(plain))
    packed[-8] ^= 1
    (tmp_path / "x.tar.gz").write_bytes(packed)
    with pytest.raises(DataError, match="CRC"):
        contents(tmp_path / "x.tar.gz")


def test_a_damaged_tar_header_is_not_the_end(tmp_path):
    path = tar_of(tmp_path / "x.tar", entry("a", size=5), entry("b", size=5), entry("c", size=5))
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 0xFF  # the checksum of the header of b
    path.write_bytes(data)
    with pytest.raises(DataError, match="without the end mark"):
        contents(path)


@pytest.mark.parametrize(
    "data", [b"", b"<html>not found</html>" * 100, b"PK\x05\x06", b"\x1f\x8b", b"PK\x03\x04" + bytes(99)]
)
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.zip cannot be read .*fetch it again"):
        contents(tmp_path / "x.zip")


def test_a_missing_archive_is_named(tmp_path):
    for attempt in (open_archive, read_compressed, contents):
        with pytest.raises(DataError, match=r"absent\.tar: No such file"):
            attempt(tmp_path / "absent.tar")


# --------------------------------------------------------------------------------------------- real data


@pytest.mark.real_data
@pytest.mark.parametrize(("file", "suffix", "least"), [("tiny-imagenet-200.zip", ".JPEG", 50_000)])
def test_reads_the_official_archive(file, suffix, least):
    mirror = os.environ.get("OPENSET_MIRROR")
    if not mirror:
        pytest.skip("name the folder that holds the official archives in OPENSET_MIRROR")
    with open_archive(Path(mirror) / file) as archive:
        images = [member for member in archive if member.name.endswith(suffix)]
        assert len(images) >= least
        for member in images[:: len(images) // 50]:
            assert member.read()[:2] == b"\xff\xd8"


# ------------------------------------------------------------------------------- archives of other programs


def zip_of_windows(path: Path, files: dict[str, bytes], system: int = 0) -> Path:
    """A zip archive with backslashes, as Compress-Archive of Windows PowerShell 5 writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.create_system = system
            archive.writestr(info, data)
    return path


def test_backslashes_of_windows_separate_folders(tmp_path: Path) -> None:
    path = zip_of_windows(tmp_path / "a.zip", {"train\\": b"", "train\\cat\\": b"", "train\\cat\\1.png": b"x"})
    with open_archive(path) as archive:
        assert [(member.name, member.read()) for member in archive] == [("train/cat/1.png", b"x")]
        assert archive.folders == ["train", "train/cat"]


@pytest.mark.parametrize("name", ["..\\x", "a\\..\\..\\x", "\\x", "C:\\x"])
def test_backslashes_of_windows_do_not_leave_the_folder(name: str, tmp_path: Path) -> None:
    path = zip_of_windows(tmp_path / "a.zip", {name: b"x"})
    with pytest.raises(DataError, match="not a plain relative path; it is refused: unpack it and name the folder"):
        open_archive(path)


def test_the_same_name_with_both_separators_is_refused(tmp_path: Path) -> None:
    path = zip_of_windows(tmp_path / "a.zip", {"a\\x": b"1", "a/x": b"2"})
    with pytest.raises(DataError, match="two members named 'a/x'; it is refused: unpack it"):
        open_archive(path)


@pytest.mark.parametrize(
    ("name", "start", "words"),
    [
        ("pets.rar", b"Rar!\x1a\x07\x01\x00", "a RAR archive"),
        ("pets.zip", b"Rar!\x1a\x07\x01\x00", "a RAR archive"),
        ("pets.7z", b"7z\xbc\xaf\x27\x1c\x00", "a 7-Zip archive"),
        ("pets.tar.zst", b"\x28\xb5\x2f\xfd", "Zstandard"),
        ("pets.zip.001", b"PK\x03\x04", "one part of a split archive"),
        ("pets.z01", b"PK\x07\x08PK\x03\x04", "split zip archive"),
        ("pets.part1.rar", b"anything", "one part of a split archive"),
    ],
)
def test_archives_of_other_programs_are_called_by_their_name(
    name: str, start: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(start + bytes(100))
    with pytest.raises(DataError, match=f"{words}.*which is not read; unpack it, name the folder, or pack it as zip"):
        open_archive(tmp_path / name)
    with pytest.raises(DataError, match=words):  # also where it is all that the folder of images holds
        READERS["image_folder"](tmp_path)


def test_the_last_part_of_a_split_zip(tmp_path: Path) -> None:
    zip_of_windows(tmp_path / "pets.zip", {"x": b"x"})
    (tmp_path / "pets.z01").write_bytes(b"PK\x07\x08")
    with pytest.raises(DataError, match="the last part of a split zip archive, which is not read"):
        open_archive(tmp_path / "pets.zip")


def test_zip64_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, archive.open("x", "w", force_zip64=True) as stream:
        stream.write(b"data")
    with open_archive(tmp_path / "a.zip") as archive:
        assert [member.read() for member in archive] == [b"data"]

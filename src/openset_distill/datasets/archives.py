"""Archives read in place, without trust in what they say about themselves.

Names that leave the folder, links, devices, duplicates, bombs, encrypted and damaged archives are errors (`DataError`)
that name the archive and the member.
"""

from __future__ import annotations

import abc
import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import DataError

# The most that an archive may unpack to: bytes of all members together and of one, number of members with folders.
TOTAL_BYTES = 16 * 1024**3
MEMBER_BYTES = 1024**3
MEMBERS = 500_000
# Unpacked bytes for each byte of the archive. Small archives of flat pictures or text compress very well and are
# harmless, so the ratio counts only above a size.
RATIO = 200
RATIO_MATTERS_FROM = 64 * 1024**2

_CHUNK = 1024**2
_START = 16
_BLOCK = 512  # bytes in a block of a tar archive
_DRIVE = re.compile(r"[A-Za-z]:")
_UNIX = 3  # `create_system` of a zip member
_SPLIT = re.compile(r"\.(z\d\d|r\d\d|\d{3}|part\d+\.rar)$", re.IGNORECASE)
# archives of other programs, by how they begin
_FOREIGN = {
    b"Rar!\x1a\x07": "a RAR archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard",
    b"\x04\x22\x4d\x18": "compressed with LZ4",
    b"\x1f\x9d": "compressed with compress (.Z)",
    b"LZIP": "compressed with lzip",
    b"MSCF": "a cabinet archive",
    b"xar!": "a xar archive",
    b"PK\x07\x08": "the first part of a split zip archive",
}
# How files begin. A tar archive begins with its first member's name, so two letters would not do.
_ZIP = re.compile(rb"PK(\x03\x04|\x05\x06)")
_COMPRESSED = {
    re.compile(rb"\x1f\x8b"): gzip.open,
    re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"): bz2.open,
    re.compile(rb"\xfd7zXZ\x00"): lzma.open,
}
_REFUSED = "it is refused: make sure that it is the archive you mean, and fetch it again"
_PACK_ANEW = "it is refused: unpack it and name the folder, or pack it anew as a plain zip or tar archive"
_FETCH_AGAIN = "the archive is damaged: delete it and fetch it again"


class Member:
    """A regular file in an archive.

    `name`: the path inside the archive, with forward slashes and without `./`; `size`: bytes, as the archive says.
    A member of a tar archive can be read once, before the next one is asked for.
    """

    def __init__(self, archive: OpenArchive, name: str, size: int, handle: Any):
        self.name = name
        self.size = size
        self._archive = archive
        self._handle = handle

    def read(self) -> bytes:
        """The contents.

        Raises:
            DataError: the archive is damaged there.
        """
        with _damage(str(self)), self._archive._open(self._handle) as stream:
            return stream.read()

    def __str__(self) -> str:
        return f"{self._archive.path}: {self.name}"


class OpenArchive(abc.ABC):
    """An open archive; iterating gives its regular files in the archive's order. Made by `open_archive`.

    `folders`: the folders that it names, empty ones too; those of a tar archive are known once it was iterated.
    """

    random_access: bool

    def __init__(self, path: Path):
        self.path = path
        self.folders: list[str] = []
        self._packed_bytes = path.stat().st_size
        self._names: set[str] = set()
        self._announced_bytes = 0

    def __enter__(self) -> OpenArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Member]: ...

    @abc.abstractmethod
    def close(self) -> None: ...

    @abc.abstractmethod
    def _open(self, handle: Any) -> Any:
        """The contents of a member as a stream."""

    def _admit(self, raw_name: str, size: int, is_folder: bool) -> str:
        """Checks and counts one entry; returns its clean name."""
        name = self._clean(raw_name, is_folder)
        if not is_folder and name in self._names:
            raise DataError(f"{self.path} has two members named {name!r}; {_PACK_ANEW}")
        self._names.add(name)
        if is_folder and name:
            self.folders.append(name)
        if len(self._names) > MEMBERS:
            raise DataError(f"{self.path} has more than {MEMBERS} members; {_REFUSED}")
        if not 0 <= size <= MEMBER_BYTES:
            raise DataError(f"{self.path}: {name} has {size} bytes, and at most {MEMBER_BYTES} are read; {_REFUSED}")
        self._announced_bytes += size
        _check_total(self._announced_bytes, self._packed_bytes, self.path)
        return name

    def _clean(self, raw: str, is_folder: bool) -> str:
        """The name without `./`, or an error when it could mean a place outside of the archive's folder."""
        parts = [part for part in raw.split("/") if part not in ("", ".")]
        if (
            raw.startswith("/")
            or "\\" in raw
            or ".." in parts
            or _DRIVE.match(raw)
            or min(raw, default=" ") < " "
            or not (parts or is_folder)
        ):
            raise DataError(f"{self.path} has a member named {raw!r}, which is not a plain relative path; {_PACK_ANEW}")
        return "/".join(parts)


def open_archive(path: str | os.PathLike) -> OpenArchive:
    """Opens a zip or tar archive (plain, gzip, bzip2 or xz), recognised by its contents.

    Use it in a `with` statement. A zip archive also has `archive[name]` (`random_access` is true); a tar archive is
    read once, front to back.

    Raises:
        DataError: the file is missing, is no archive, or holds what this module refuses. For a tar archive that
            can also come while iterating.
    """
    path = Path(path)
    with _opened(path) as stream:
        start = stream.read(_START)
    problem = _foreign(start, str(path))
    if problem:
        raise DataError(f"{path} is {problem}, which is not read; unpack it, name the folder, or pack it as zip")
    return _Zip(path) if _ZIP.match(start) else _Tar(path)


def _foreign(start: bytes, path: str) -> str | None:
    """What an archive is that this module does not read; None where it may read it."""
    for magic, what in _FOREIGN.items():
        if start.startswith(magic):
            return what
    if _SPLIT.search(path):
        return "one part of a split archive"
    if path.lower().endswith(".zip") and Path(path[:-4] + ".z01").exists():
        return "the last part of a split zip archive"
    return None


def is_foreign(path: str | os.PathLike) -> bool:
    """Whether a file is an archive that `open_archive` refuses as one of another program, or a part of one."""
    with open(path, "rb") as stream:
        return _foreign(stream.read(_START), os.fspath(path)) is not None


def read_compressed(path: str | os.PathLike) -> bytes:
    """The unpacked contents of one file: gzip, bzip2, xz, or not compressed.

    Raises:
        DataError: the file is missing, is damaged, or unpacks to more than one member of an archive may have.
    """
    with contextlib.closing(_Unpacked(Path(path))) as unpacked:
        data = unpacked.read(MEMBER_BYTES)
        if unpacked.read(1):
            raise DataError(f"{path} unpacks to more than {MEMBER_BYTES} bytes; {_REFUSED}")
        return data


def _opened(path: Path) -> io.BufferedReader:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"cannot open {path}: {error.strerror or error}; fetch it first") from error


def _check_total(unpacked: int, packed: int, path: Path) -> None:
    """Raises a DataError when `packed` bytes unpacked to too many bytes."""
    if unpacked > TOTAL_BYTES:
        raise DataError(f"{path} unpacks to more than {TOTAL_BYTES} bytes; {_REFUSED}")
    if unpacked > RATIO_MATTERS_FROM and unpacked > RATIO * packed:
        raise DataError(f"{path} unpacks to more than {RATIO} times its size; {_REFUSED}")


@contextlib.contextmanager
def _damage(where: str | Path) -> Iterator[None]:
    """Turns what the libraries raise about damaged archives into a `DataError`."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        ValueError,
        RuntimeError,  # with its subclass for compression methods that Python does not know
    ) as error:
        raise DataError(f"{where} cannot be read ({error or type(error).__name__}); {_FETCH_AGAIN}") from error


class _Zip(OpenArchive):
    """A zip archive: every member can be read at any time, by name."""

    random_access = True

    def __init__(self, path: Path):
        super().__init__(path)
        with _damage(path):
            self._zip = zipfile.ZipFile(path)
        try:
            self._members = {member.name: member for member in self._listed()}
        except BaseException:
            self.close()
            raise

    def _listed(self) -> Iterator[Member]:
        for info in self._zip.infolist():
            # `orig_filename` is what the archive says; `filename` is cut at a zero byte and has slashes exchanged
            raw, is_folder = info.orig_filename, info.is_dir()
            if info.create_system != _UNIX:  # Windows PowerShell 5 writes its own separator
                raw = raw.replace("\\", "/")
                is_folder = raw.endswith("/")
            name = self._admit(raw, info.file_size, is_folder)
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{self.path}: {name} is a link or a special file; {_PACK_ANEW}")
            if info.flag_bits & 0x1:
                raise DataError(f"{self.path}: {name} is encrypted; unpack the archive with its password first")
            if not is_folder:
                yield Member(self, name, info.file_size, info)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __getitem__(self, name: str) -> Member:
        """The member `name`.

        Raises:
            DataError: there is none.
        """
        try:
            return self._members[name]
        except KeyError:
            raise DataError(f"{self.path} has no member {name!r}; check that it is the archive you mean") from None

    def close(self) -> None:
        self._zip.close()

    def _open(self, handle: zipfile.ZipInfo) -> Any:
        return self._zip.open(handle)


class _Tar(OpenArchive):
    """A tar archive, compressed or not: one pass from front to back."""

    random_access = False

    def __init__(self, path: Path):
        super().__init__(path)
        self._stream = _Unpacked(path)
        self._started = False

    def __iter__(self) -> Iterator[Member]:
        if self._started:
            raise DataError(f"{self.path} can be read once, from front to back; open it again for another pass")
        self._started = True
        stream: Any = self._stream  # reading needs no more than it has
        with _damage(self.path):
            self._tar = tarfile.TarFile(fileobj=stream)
        while (info := self._next()) is not None:
            name = self._admit(info.name, info.size if info.isreg() else 0, info.isdir())
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                raise DataError(f"{self.path}: {name} is a link or a special file; {_PACK_ANEW}")
            yield Member(self, name, info.size, info)
        # tarfile takes an archive that is cut between two members, or has a damaged header, for a complete one
        if self._stream.last != bytes(_BLOCK):
            raise DataError(f"{self.path} ends without the end mark of a tar archive; {_FETCH_AGAIN}")
        while self._stream.piece(_CHUNK):  # the checksum of a compressed file comes at its end
            pass

    def _next(self) -> tarfile.TarInfo | None:
        tar: Any = self._tar
        with _damage(self.path):
            info = tar.next()
        tar.members.clear()  # tarfile keeps every header, which is gigabytes for millions of images
        return info

    def close(self) -> None:
        self._stream.close()

    def _open(self, handle: tarfile.TarInfo) -> Any:
        return self._tar.extractfile(handle)


class _Unpacked:
    """The contents of a file that may be compressed, counted as they come. It only goes forward.

    `last`: what the last `read` gave.
    """

    def __init__(self, path: Path):
        self._path = path
        self._packed: BinaryIO = _opened(path)
        self._packed_bytes = path.stat().st_size
        start = self._packed.read(_START)
        self._packed.seek(0)
        opener = next((opener for magic, opener in _COMPRESSED.items() if magic.match(start)), None)
        self._stream: Any = opener(self._packed) if opener else self._packed
        self._position = 0
        self.last = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end."""
        if not 0 <= size <= MEMBER_BYTES:  # a header announces it
            raise DataError(f"{self._path} asks for {size} bytes at once; {_REFUSED}")
        pieces = []
        while size and (piece := self.piece(min(size, _CHUNK))):
            pieces.append(piece)
            size -= len(piece)
        self.last = b"".join(pieces)
        return self.last

    def piece(self, size: int) -> bytes:
        with _damage(self._path):
            data = self._stream.read(size)
        self._position += len(data)
        _check_total(self._position, self._packed_bytes, self._path)
        return data

    def seek(self, position: int) -> None:
        if position < self._position:
            raise DataError(f"{self._path}: a tar archive is read front to back, and this part of it was passed")
        while self._position < position:
            if not self.piece(min(_CHUNK, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")

    def close(self) -> None:
        self._stream.close()
        self._packed.close()

"""Archives as streams of members, without trust in what they say about themselves.

Images are read straight out of the archive. Names that leave the folder, links, devices, duplicates, bombs,
encrypted and damaged archives are errors (`DataError`) that name the archive and the member.
"""

from __future__ import annotations

import abc
import bz2
import contextlib
import dataclasses
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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from ..core.errors import DataError

# Small archives of flat pictures or text compress very well and harm nobody: the ratio counts only above this.
RATIO_MATTERS_FROM = 64 * 1024**2

_CHUNK = 1024**2
_START = 16
_BLOCK = 512  # bytes in a block of a tar archive
_LARGEST_HEADER = 1024**2  # bytes of extended header before a tar member: names and times, nothing large
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


@dataclass(frozen=True)
class Limits:
    """The most that an archive may unpack to.

    `total_bytes`: all members together; `member_bytes`: one member; `members`: their number, folders included;
    `ratio`: unpacked bytes for each byte of the archive file.
    """

    total_bytes: int = 16 * 1024**3
    member_bytes: int = 1024**3
    members: int = 500_000
    ratio: float = 200.0

    def check(self, unpacked: int, packed: int, where: str) -> None:
        """Raises `DataError` when `packed` bytes unpacked to too many bytes."""
        if unpacked > self.total_bytes:
            raise DataError(f"{where} unpacks to more than {self.total_bytes} bytes; {_REFUSED}")
        if unpacked > RATIO_MATTERS_FROM and unpacked > self.ratio * packed:
            raise DataError(f"{where} unpacks to more than {self.ratio:g} times its size; {_REFUSED}")


DEFAULT_LIMITS = Limits()


# what members and the bytes of archives are read from
_Stream = IO[bytes] | io.IOBase | BinaryIO


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

    def open(self) -> io.BufferedReader:
        """The contents as a stream that goes forward only.

        Raises:
            DataError: the archive is damaged there (also while the stream is read).
        """
        with _damage(str(self)):
            stream = self._archive._open(self._handle)
        return io.BufferedReader(_Announced(stream, self.size, str(self)), max(1, min(self.size, _CHUNK)))

    def read(self) -> bytes:
        """All of the contents.

        Raises:
            DataError: the archive is damaged there.
        """
        with self.open() as stream:
            return stream.read()

    def __str__(self) -> str:
        return f"{self._archive.path}: {self.name}"


class OpenArchive(abc.ABC):
    """An open archive; iterating gives its regular files in the archive's order. Made by `open_archive`.

    `folders`: the folders that it names, empty ones too; those of a tar archive are known once it was iterated.
    """

    random_access: bool

    def __init__(self, path: str, packed_bytes: int, limits: Limits):
        self.path = path
        self._packed_bytes = packed_bytes
        self._limits = limits
        self.folders: list[str] = []  # of a tar archive those that were passed
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
    def _open(self, handle: Any) -> _Stream:
        """The unguarded contents of a member."""

    def _admit(self, raw_name: str, size: int, is_folder: bool) -> str:
        """Checks and counts one entry; returns its clean name."""
        name = _clean(raw_name, self.path, is_folder)
        if not is_folder and name in self._names:
            raise DataError(f"{self.path} has two members named {name!r}; {_PACK_ANEW}")
        self._names.add(name)
        if is_folder and name:
            self.folders.append(name)
        if len(self._names) > self._limits.members:
            raise DataError(f"{self.path} has more than {self._limits.members} members; {_REFUSED}")
        if size > self._limits.member_bytes:
            raise DataError(
                f"{self.path}: {name} unpacks to {size} bytes, more than {self._limits.member_bytes}; {_REFUSED}"
            )
        self._announced_bytes += size
        self._limits.check(self._announced_bytes, self._packed_bytes, self.path)
        return name


def open_archive(source: str | os.PathLike | Member, limits: Limits = DEFAULT_LIMITS) -> OpenArchive:
    """Opens a zip or tar archive (plain, gzip, bzip2 or xz), recognised by its contents.

    `source` may be a tar archive inside another archive. Use it in a `with` statement. A zip archive also has
    `archive[name]` and `name in archive` (`random_access` is true); a tar archive is read once, front to back.

    Raises:
        DataError: the file is missing, is no archive, or holds what this module refuses. For a tar archive that
            can also come while iterating.
    """
    if isinstance(source, Member):
        path, packed, stream = str(source), source.size, source.open()
    else:
        path, packed, stream = _open_file(source)
    try:
        problem = _foreign(stream.peek(_START), path)
        if problem:
            raise DataError(f"{path} is {problem}, which is not read; unpack it, name the folder, or pack it as zip")
        if _ZIP.match(stream.peek(_START)):
            if isinstance(source, Member):
                raise DataError(f"{path} is a zip archive inside an archive; unpack the outer one first")
            stream.close()
            return _Zip(Path(source), limits)
        return _Tar(stream, path, packed, limits)
    except BaseException:
        stream.close()
        raise


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


def members(source: str | os.PathLike | Member, limits: Limits = DEFAULT_LIMITS) -> Iterator[Member]:
    """The regular files of an archive in order; each must be read before the next is asked for.

    Raises:
        DataError: as `open_archive`.
    """
    with open_archive(source, limits) as archive:
        yield from archive


def open_compressed(path: str | os.PathLike, limits: Limits = DEFAULT_LIMITS) -> BinaryIO:
    """The unpacked contents of one file (gzip, bzip2, xz, or not compressed) as a forward-only stream.

    Raises:
        DataError: the file is missing; while reading: it is damaged or unpacks to more than `limits`.
    """
    name, packed, stream = _open_file(path)
    return io.BufferedReader(_Unpacked(stream, name, packed, limits), _CHUNK)


def _open_file(path: str | os.PathLike) -> tuple[str, int, io.BufferedReader]:
    try:
        stream = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise DataError(f"cannot open {path}: {error.strerror or error}; fetch it first") from error
    return str(path), os.fstat(stream.fileno()).st_size, stream


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
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


def _clean(raw: str, path: str, is_folder: bool) -> str:
    """The member name without `./`, or an error when it could mean a place outside of the archive's folder."""
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if (
        raw.startswith("/")
        or "\\" in raw
        or ".." in parts
        or _DRIVE.match(raw)
        or min(raw, default=" ") < " "
        or not (parts or is_folder)
    ):
        raise DataError(f"{path} has a member named {raw!r}, which is not a plain relative path; {_PACK_ANEW}")
    return "/".join(parts)


# -------------------------------------------------------------------------------------------------- streams


class _Reader(io.RawIOBase):
    """A forward-only stream over another one, which it closes."""

    def __init__(self, stream: _Stream, where: str):
        self._stream = stream
        self._where = where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _damage(self._where):
            data = self._stream.read(len(buffer))
        self._seen(len(data))
        buffer[: len(data)] = data
        return len(data)

    @abc.abstractmethod
    def _seen(self, count: int) -> None:
        """Checks what was read; a count of 0 is the end."""

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Announced(_Reader):
    """The contents of a member: as many bytes as the archive announced, not more and not less."""

    def __init__(self, stream: _Stream, size: int, where: str):
        super().__init__(stream, where)
        self._left = size

    def _seen(self, count: int) -> None:
        if count > self._left or (count == 0 and self._left):
            raise DataError(f"{self._where} has another length than the archive announces; {_FETCH_AGAIN}")
        self._left -= count


class _Unpacked(_Reader):
    """The contents of a compressed file, counted as they come: what an archive announces may be wrong."""

    def __init__(self, packed: io.BufferedReader, where: str, packed_bytes: int, limits: Limits):
        start = packed.peek(_START)
        opener = next((opener for magic, opener in _COMPRESSED.items() if magic.match(start)), None)
        super().__init__(opener(packed) if opener else packed, where)
        self._packed = packed
        self._packed_bytes = packed_bytes
        self._limits = limits
        self._count = 0

    def _seen(self, count: int) -> None:
        self._count += count
        self._limits.check(self._count, self._packed_bytes, self._where)

    def close(self) -> None:
        super().close()
        self._packed.close()


# ------------------------------------------------------------------------------------------------------ zip


class _Zip(OpenArchive):
    """A zip archive: every member can be read at any time, by name."""

    random_access = True

    def __init__(self, path: Path, limits: Limits):
        super().__init__(str(path), path.stat().st_size, limits)
        with _damage(self.path):
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
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{self.path}: {name} is a link or a special file; {_PACK_ANEW}")
            if info.flag_bits & 0x1:
                raise DataError(f"{self.path}: {name} is encrypted; unpack the archive with its password first")
            if not is_folder:
                yield Member(self, name, info.file_size, info)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

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

    def _open(self, handle: zipfile.ZipInfo) -> _Stream:
        return self._zip.open(handle)


# ------------------------------------------------------------------------------------------------------ tar


class _Tar(OpenArchive):
    """A tar archive, compressed or not: one pass from front to back."""

    random_access = False

    def __init__(self, stream: io.BufferedReader, path: str, packed_bytes: int, limits: Limits):
        super().__init__(path, packed_bytes, limits)
        # headers and padding are unpacked too, beyond the members' own bytes
        allowed = dataclasses.replace(limits, total_bytes=limits.total_bytes + 4 * _BLOCK * limits.members)
        unpacked = _Unpacked(stream, path, packed_bytes, allowed)
        self._stream = _TarStream(io.BufferedReader(unpacked, _CHUNK), path)
        self._started = False

    def __iter__(self) -> Iterator[Member]:
        if self._started:
            raise DataError(f"{self.path} can be read once, from front to back; open it again for another pass")
        self._started = True
        with _damage(self.path):
            stream: Any = self._stream  # reading needs no more than it has
            tar = tarfile.TarFile(fileobj=stream)
        while (info := self._next(tar)) is not None:
            name = self._admit(info.name, info.size if info.isreg() else 0, info.isdir())
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                raise DataError(f"{self.path}: {name} is a link or a special file; {_PACK_ANEW}")
            if info.size < 0:
                raise DataError(f"{self.path}: {name} has a negative size; {_FETCH_AGAIN}")
            yield Member(self, name, info.size, info)
        # tarfile takes an archive that is cut between two members, or has a damaged header, for a complete one
        if self._stream.last_header != bytes(_BLOCK):
            raise DataError(f"{self.path} ends without the end mark of a tar archive; {_FETCH_AGAIN}")
        while self._stream.take(_CHUNK):  # the checksum of a compressed file comes at its end
            pass

    def _next(self, tar: Any) -> tarfile.TarInfo | None:
        with _damage(self.path):
            info = tar.next()
        tar.members.clear()  # tarfile keeps every header, which is gigabytes for millions of images
        return info

    def close(self) -> None:
        self._stream.close()

    def _open(self, handle: tarfile.TarInfo) -> _Stream:
        if self._stream.tell() > handle.offset_data:
            raise DataError(f"{self.path}: {handle.name} was passed already; a tar archive is read front to back")
        self._stream.seek(handle.offset_data)
        return _TarContents(self._stream, handle.size)


class _TarStream:
    """What `tarfile` reads headers from. It only goes forward, also where the archive points backwards.

    A header is read into memory whole, so a large one is a trap and an error. `last_header` is the last block read.
    """

    def __init__(self, stream: _Stream, where: str):
        self._stream = stream
        self._where = where
        self._position = 0
        self.last_header = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise DataError(f"{self._where} has a header of {size} bytes; {_REFUSED}")
        self.last_header = self.take(size)
        return self.last_header

    def take(self, size: int) -> bytes:
        """The next bytes, which are no header."""
        data = self._stream.read(size)
        self._position += len(data)
        return data

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.ReadError("a header points backwards")
        while self._position < position:
            if not self.take(min(_CHUNK, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")

    def close(self) -> None:
        self._stream.close()


class _TarContents(io.RawIOBase):
    """The contents of one tar member. Closing it leaves the archive open."""

    def __init__(self, stream: _TarStream, size: int):
        self._stream = stream
        self._left = size

    def read(self, size: int = -1) -> bytes:
        data = self._stream.take(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data

"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import math
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DataError, OpenSetError

if TYPE_CHECKING:
    import numpy as np

# what helps where a file that the workflow made is damaged: Snakemake and `run_commands.py` make what is missing
AGAIN = "delete it, and the same command makes it again"
# deflate packs at most 1,032 bytes into one
MOST_COMPRESSED = 1100
DAMAGED_NPZ = (ValueError, EOFError, KeyError, TypeError, NotImplementedError, RuntimeError, MemoryError, zlib.error)
DAMAGED_NPZ += (zipfile.BadZipFile, SyntaxError, struct.error)


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path in the folder of `path`; renames it to `path` when the block ends without an error.

    A crash, a full disk or an exception leaves the old file (or none), never half of a new one. What a killed process
    had begun to write is removed by the next one that writes the same file.

    Raises:
        OpenSetError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_temporaries(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise OpenSetError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that you may write to, with free space"
        ) from error
    partial = Path(name)
    try:
        lock(handle)
        yield partial
        with open(partial, "rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes private files; results are meant to be shared as the umask allows
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        partial.replace(path)
    except BrokenPipeError:
        raise  # of what is printed meanwhile, not of this file
    except OSError as error:
        kept = " (its previous contents are kept)" if path.exists() else ""
        raise OpenSetError(
            f"cannot write {path}: {error.strerror or error}{kept}; "
            "free some space or choose another folder, then run again"
        ) from error
    finally:
        os.close(handle)
        partial.unlink(missing_ok=True)


def remove_stale_temporaries(path: str | os.PathLike) -> None:
    """Removes what killed processes had begun to write as `path`; what a living one is writing stays."""
    path = Path(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(FileNotFoundError), open(leftover, "rb") as stream:
            if lock(stream.fileno()):
                leftover.unlink(missing_ok=True)


def lock(handle: int) -> bool:
    """Whether this process has the file's lock now; it ends with the process, however that ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system has no locks
        return False
    return True


@contextmanager
def alone(folder: str | os.PathLike, doing: str) -> Iterator[None]:
    """Makes sure that no other process is in such a block for the same folder; nothing is left behind, even by a kill.

    Where a file system has no locks, nobody is kept out.

    Args:
        doing: what is done there, for the message.

    Raises:
        OpenSetError: another process has the folder, or it cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OpenSetError(
            f"cannot write {folder}: {error.strerror or error}; choose a folder that you may write to, with free space"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = _owner_of_lock(handle)
            end = f"end it with `kill {owner}`" if owner else "find it with `python tools/doctor.py`"
            words = f"process {owner or 'another'} is {doing} in {folder} already"
            raise OpenSetError(f"{words}; wait for it, or {end}, which saves its state") from error
        except OSError:
            pass  # no locks here
        yield
    finally:
        os.close(handle)


def is_in_use(path: str | os.PathLike) -> bool:
    """Whether a process is `alone` in this folder, or still writes this file; one that is gone is not in use."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return bool(_owner_of_lock(handle))
    finally:
        os.close(handle)


def _owner_of_lock(handle: int) -> str:
    """The process that has the lock of an open file, from Linux' own list; empty where it is not known."""
    inode = os.fstat(handle).st_ino
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return ""
    owners = [words[4] for words in map(str.split, lines) if len(words) > 5 and words[5].endswith(f":{inode}")]
    return owners[0] if owners else ""


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON; NaN and infinity are refused because JSON has neither."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Reads JSON.

    Raises:
        OpenSetError: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OpenSetError(unreadable(path, error)) from error
    except (ValueError, RecursionError) as error:
        raise OpenSetError(f"{path} is not valid JSON ({error}); {AGAIN}") from error


def read_record(path: str | os.PathLike, types: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """A JSON object that has at least these keys, with values of these types.

    Raises:
        OpenSetError: as `read_json`; not an object; a key is missing or of another type.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise OpenSetError(f"{path} does not hold a JSON object; {AGAIN}")
    for key, kind in types.items():
        if key not in record or not isinstance(record[key], kind) or (isinstance(record[key], bool) and kind is int):
            found = f"{key!r} of a wrong type" if key in record else f"no {key!r}"
            raise OpenSetError(f"{path} has {found}; {AGAIN}")
    return record


def unreadable(path: str | os.PathLike, error: OSError, missing: str = "run the step that makes it first") -> str:
    """What to say of a file that the system does not give: its true cause, and what helps.

    Args:
        missing: what helps where the file is not there.
    """
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"{path} is missing; {missing}"
    if isinstance(error, PermissionError):
        return f"{path} cannot be read, it is not permitted; change its permissions (`chmod u+r`), or ask its owner"
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder where a file belongs; move it away and run again"
    return f"{path} cannot be read: {error.strerror or error}; check the disk, then run again"


def read_npz(path: str | os.PathLike, what: str, only: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file.

    No memory is taken for what a member merely claims to hold: sizes are compared with the file's before.

    Args:
        what: the file holds, for messages.
        only: names of the arrays whose contents are read, where they are not all.

    Raises:
        DataError: it is missing, cannot be read, is cut off or damaged, or holds anything but plain arrays.
    """
    import numpy as np

    try:
        with open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
            budget = MOST_COMPRESSED * os.fstat(stream.fileno()).st_size
            for member in archive.infolist():
                budget -= member.file_size
                with archive.open(member) as opened:
                    version = np.lib.format.read_magic(opened)
                    formats = np.lib.format
                    read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
                    shape, _, dtype = read(opened)
                    header = opened.tell()
                if dtype.hasobject or header + math.prod(shape) * dtype.itemsize != member.file_size or budget < 0:
                    raise ValueError(f"{member.filename} claims {list(shape)} of {dtype}, but it holds less")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if only is None or name in only}
    except OSError as error:
        if error.errno is None:  # the zip library's own words for a damaged file
            raise DataError(f"{path} is cut off or not {what} ({error}); {AGAIN}") from error
        raise DataError(unreadable(path, error)) from error
    except DAMAGED_NPZ as error:
        raise DataError(f"{path} is cut off or not {what} ({' '.join(str(error).split())}); {AGAIN}") from error


def read_text(path: str | os.PathLike) -> str:
    """The contents of a text file that users write, which must be UTF-8; a byte order mark is left out.

    Raises:
        OpenSetError: it has another encoding.
        OSError: it cannot be read.
    """
    return decoded(Path(path).read_bytes(), path)


def decoded(contents: bytes, path: str | os.PathLike) -> str:
    """`contents` of the text file `path`, as `read_text` gives them."""
    try:
        return contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wide = contents[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in contents[:100]
        found = "UTF-16 or UTF-32" if wide else f"another encoding: byte {contents[error.start]:#04x} in line "
        line = "" if wide else str(contents.count(b"\n", 0, error.start) + 1)
        raise OpenSetError(f"{path} is not UTF-8 but {found}{line}; save it as UTF-8") from error


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

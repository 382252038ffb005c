"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import OpenSetError


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path in the folder of `path`; renames it to `path` when the block ends without an error.

    A crash, a full disk or an exception leaves the old file (or none), never half of a new one. What a killed process
    had begun to write is removed by the next one that writes the same file.

    Raises:
        OpenSetError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    except OSError as error:
        raise OpenSetError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that you may write to, with free space"
        ) from error
    partial = Path(name)
    try:
        _lock(handle)
        yield partial
        with open(partial, "rb+") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes private files; results are meant to be shared as the umask allows
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except OSError as error:
        kept = " (what it held before is kept)" if path.exists() else ""
        raise OpenSetError(
            f"cannot write {path}: {error.strerror or error}{kept}; "
            "free some space or choose another folder, then run again"
        ) from error
    finally:
        os.close(handle)
        partial.unlink(missing_ok=True)


def remove_leftovers(path: str | os.PathLike) -> None:
    """Removes what killed processes had begun to write as `path`; what a living one is writing stays."""
    path = Path(path)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(FileNotFoundError), open(leftover, "rb") as stream:
            if _lock(stream.fileno()):
                leftover.unlink(missing_ok=True)


def _lock(handle: int) -> bool:
    """Whether this process has the file's lock now; it ends with the process, however that ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system has no locks
        return False
    return True


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON; NaN and infinity are refused because JSON has neither."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Reads JSON.

    Raises:
        OpenSetError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OpenSetError(f"{path} is missing; run the step that makes it first") from error
    except ValueError as error:
        raise OpenSetError(f"{path} is not valid JSON ({error}); delete it and run again") from error


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

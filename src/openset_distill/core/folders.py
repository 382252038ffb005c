"""Folders that a command makes as a whole, and makes again: what others put there is never removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OpenSetError
from .names import shortened


@contextmanager
def replaced_folder(
    folder: str | os.PathLike,
    *,
    tool: str,
    own: Callable[[Path], Iterable[str]],
    apart: Iterable[str | os.PathLike] = (),
) -> Iterator[Path]:
    """Gives an empty folder next to `folder`, which takes its place when the block ends without an error.

    The old folder goes once the new one is complete, and only if it holds nothing but what `tool` wrote.

    Args:
        tool: who writes, for messages and for the names of the folders next to it.
        own: of an old folder that is not empty, the files that `tool` wrote, relative to it.
        apart: folders that are read; `folder` is none of them, in none of them and holds none of them.

    Raises:
        OpenSetError: the place is taken, by other files or by a folder that must stay, or cannot be written.
        OSError: of the block itself, about a file elsewhere.
    """
    folder = Path(folder)
    _check_place(folder, [*apart, Path.cwd()], apart)
    new, old = (folder.with_name(f".{folder.name}.{tool}.{kind}") for kind in ("new", "old"))
    try:
        if old.exists() and not folder.exists():  # a process was killed between the two moves
            old.rename(folder)
        _check_contents(folder, tool, own)
        for leftover in (new, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        new.mkdir(parents=True)
        try:
            try:
                yield new
            except OSError as error:
                if _is_elsewhere(error, new):
                    raise _OfTheBlock(error) from error
                raise
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    except _OfTheBlock as carrier:
        raise carrier.error from None
    except OSError as error:
        raise OpenSetError(
            f"cannot write the folder {folder}: {error.strerror or error}; its previous contents are kept: free some "
            "space or choose another folder, then run again"
        ) from error


class _OfTheBlock(Exception):
    """Carries an error past the handlers of errors of the folder."""

    def __init__(self, error: OSError):
        super().__init__(error)
        self.error = error


def _is_elsewhere(error: OSError, folder: Path) -> bool:
    """Whether an error is about a file outside of `folder`; one that names no file is of writing, so inside."""
    places = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return bool(places) and not any(folder in (place, *place.parents) for place in places)


def _check_place(folder: Path, kept: Iterable[str | os.PathLike], apart: Iterable[str | os.PathLike]) -> None:
    if folder.is_symlink():
        raise OpenSetError(f"{folder} is a link; give the folder that it points to, or a new one")
    place, read = folder.resolve(), [Path(one).resolve() for one in apart]
    if folder.name in ("", "..") or place == place.parent:
        raise OpenSetError(f"{folder} cannot be replaced; choose a new folder")
    for one in kept:
        other = Path(one).resolve()
        if place == other or place in other.parents or (other in read and other in place.parents):
            where = "is" if place == other else "holds" if place in other.parents else "is inside"
            raise OpenSetError(f"{folder} {where} {one}, which must stay as it is; choose a new folder")


def _check_contents(folder: Path, tool: str, own: Callable[[Path], Iterable[str]]) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OpenSetError(f"{folder} is a file; choose a new folder")
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    foreign = sorted(found - set(own(folder))) if found else []
    if foreign:
        raise OpenSetError(
            f"{folder} holds {len(foreign)} files that {tool} did not write, such as {shortened(foreign[0])}; "
            "choose a new folder, or move them away"
        )

"""What lies in a user's folder: every file is listed, counted as a leftover of a program, or a problem with a name."""

from __future__ import annotations

import enum
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..core.errors import DataError
from ..core.text import printable
from .decode import special

# What systems and programs leave in folders, by lower-case name. Whatever begins with a dot is hidden, and skipped too.
LEFTOVERS = {
    "__macosx": "__MACOSX (macOS)",
    "icon\r": "Icon (macOS)",
    "network trash folder": "Network Trash Folder (macOS)",
    "temporary items": "Temporary Items (macOS)",
    "@eadir": "@eaDir (Synology)",
    "#recycle": "#recycle (Synology)",
    "#snapshot": "#snapshot (Synology)",
    "@recycle": "@Recycle (QNAP)",
    "@recently-snapshot": "@Recently-Snapshot (QNAP)",
    "@__thumb": ".@__thumb (QNAP)",
    "$recycle.bin": "$RECYCLE.BIN (Windows)",
    "recycler": "RECYCLER (Windows)",
    "system volume information": "System Volume Information (Windows)",
    "thumbs.db": "Thumbs.db (Windows)",
    "ehthumbs.db": "ehthumbs.db (Windows)",
    "desktop.ini": "desktop.ini (Windows)",
    "lost+found": "lost+found (Linux)",
    "picasa.ini": "Picasa.ini (Picasa)",
    "__pycache__": "__pycache__ (Python)",
    "download.json": "download.json (of this project)",
}
_ENDINGS = {".origin.json": "*.origin.json (of this project)"}
_SHOWN = 10  # problems that a message names; the log has all

_logger = logging.getLogger(__name__)


@dataclass
class Listing:
    """The contents of a folder or archive, with paths relative to it.

    `names`: regular files, sorted; `folders`: without the skipped ones; `skipped`: how many files and folders were
    left out, by what they are; `problems`: what cannot be read, one line each.
    """

    names: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What was left out, for a log."""
        if not self.skipped:
            return []
        kinds = ", ".join(f"{count} x {kind}" for kind, count in sorted(self.skipped.items()))
        return [f"left out as no part of the images: {kinds}"]


def leftover(name: str) -> str | None:
    """What the file or folder `name` (one part of a path) is where it is no part of a dataset.

    >>> leftover("@eaDir"), leftover(".DS_Store"), leftover("cat")
    ('@eaDir (Synology)', 'hidden (names with a dot at the start)', None)
    """
    lower = name.lower()
    if lower in LEFTOVERS:
        return LEFTOVERS[lower]
    if name.startswith("."):
        return "hidden (names with a dot at the start)"
    return next((kind for ending, kind in _ENDINGS.items() if lower.endswith(ending)), None)


class Kind(enum.Enum):
    """What `each` finds."""

    FILE, FOLDER, SKIPPED, PROBLEM = range(4)


class Found(NamedTuple):
    """One file or folder: its path relative to the root, and what was left out, or what is wrong with it.

    The path of a folder that cannot be read ends in a slash, and that of the root is empty.
    """

    kind: Kind
    name: str
    words: str = ""


def each(root: str | os.PathLike, *, apart: int) -> Iterator[Found]:
    """Everything in the folder `root`, at any depth, one after another in the order of the names.

    Links are followed, out of `root` too. A linked folder that holds the link itself, or that was read already, is not
    entered again. What cannot be followed or read is a problem.

    Args:
        apart: what was read below one folder of this depth may be read again below another: 2 where `root` holds
            `part/class`, 1 where it holds classes.
    """
    root = Path(root)
    entered: set[tuple[str, int, int]] = set()
    above: list[tuple[str, tuple[int, int], list[os.DirEntry]]] = []

    def enter(folder: str) -> Found:
        place = root / folder
        try:
            status = place.stat()
            here = (status.st_dev, status.st_ino)
            top = "/".join(folder.split("/")[:apart])
            if (top, *here) in entered or any(here == other for _, other, _ in above):
                return Found(Kind.SKIPPED, folder, "link to a folder that is read already")
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            return Found(
                Kind.PROBLEM, folder and f"{folder}/", f"{printable(str(place))} cannot be read ({error.strerror})"
            )
        entered.add((top, *here))
        entries.reverse()
        above.append((folder, here, entries))
        return Found(Kind.FOLDER, folder)

    yield enter("")
    while above:
        folder, _, entries = above[-1]
        if not entries:
            above.pop()
            continue
        entry = entries.pop()
        name = f"{folder}/{entry.name}" if folder else entry.name
        if (kind := leftover(entry.name)) is not None:
            yield Found(Kind.SKIPPED, name, kind)
            continue
        problem = _problem(entry)
        if problem == "a folder":
            yield enter(name)
        elif problem is None:
            yield Found(Kind.FILE, name)
        else:
            yield Found(Kind.PROBLEM, name, f"{printable(entry.path)} {problem}")


def walk(root: Path) -> Listing:
    """Everything in the folder `root`, which may hold `part/class`, as `each` finds it."""
    listing = Listing()
    for kind, name, words in each(root, apart=2):
        if kind is Kind.FILE:
            listing.names.append(name)
        elif kind is Kind.SKIPPED:
            listing.skipped[words] += 1
        elif kind is Kind.PROBLEM:
            listing.problems.append(words)
        elif name:  # not the root itself
            listing.folders.append(name)
    listing.names.sort()
    listing.folders.sort()
    listing.problems.sort()
    return listing


def _problem(entry: os.DirEntry) -> str | None:
    """Why an entry cannot be read; "a folder" where it is one."""
    try:
        kind = special(entry.path)
    except OSError as error:
        if entry.is_symlink():
            target = printable(os.readlink(entry.path))
            return f"is a link to {target}, which cannot be followed ({error.strerror})"
        return f"cannot be read ({error.strerror})"
    if kind == "a folder":
        return kind
    if kind is not None:
        return f"is {kind}, not a file"
    effective = os.access in os.supports_effective_ids
    return None if os.access(entry.path, os.R_OK, effective_ids=effective) else "cannot be read (Permission denied)"


def refused(problems: Sequence[str], what: str, remedy: str = "") -> DataError:
    """One error about all `problems`: the first ones by name, and all of them in the log.

    Args:
        what: what they are, for example "images cannot be decoded".
        remedy: what helps; empty where each problem says it.
    """
    remedy = f"; {remedy}" if remedy else ""
    if len(problems) == 1:
        return DataError(f"{problems[0]}{remedy}")
    for problem in problems if len(problems) > _SHOWN else ():
        _logger.warning("%s", problem)
    more = f"; and {len(problems) - _SHOWN} more, which the log lists" if len(problems) > _SHOWN else ""
    return DataError(f"{len(problems)} {what}: {'; '.join(problems[:_SHOWN])}{more}{remedy}")


def check(listing: Listing) -> None:
    """Raises `DataError` when something in a folder cannot be read."""
    if listing.problems:
        raise refused(
            listing.problems,
            "files or folders cannot be read",
            "fetch what the links lead to (git annex get, dvc pull), make it readable, or remove it",
        )


def shortened(names: Iterable[str], most: int = 5) -> str:
    """The first names for a line of a log."""
    names = [printable(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

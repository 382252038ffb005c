"""Names and paths that users choose: the one rule for what becomes a file name, and the one way into a pattern.

Text that is only shown (titles, labels, class names) is in `core.text`; it may hold anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from .errors import SettingsError

# the label of an image of no known class, wherever labels are numbers
UNKNOWN_LABEL = -1
LONGEST_NAME = 64
NAME_RULE = (
    "a name has letters A to Z, digits, and _ . + - inside, begins with a letter or digit, "
    f"has at most {LONGEST_NAME} characters and does not end in a dot"
)
# what the workflow writes next to the folders that are called by these names
RESERVED_ENDINGS = (".csv", ".json", ".log", ".npy", ".npz", ".partial", ".safetensors", ".tsv")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.+-]*[A-Za-z0-9_+-])?")
# matches no text at all; an empty alternative would match the empty text
_NOTHING = r"(?!)"


def check_name(name: str) -> str:
    """`name`, which becomes the name of a folder as it stands: of an experiment or of a run.

    Raises:
        SettingsError: it breaks `NAME_RULE`, or a file of the results could have this name.
    """
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise SettingsError(f"{shortened(name)} cannot name a folder: {NAME_RULE}")
    for ending in RESERVED_ENDINGS:
        if name.lower().endswith(ending):
            raise SettingsError(
                f"{shortened(name)} cannot name a folder: files of the results end in {ending}; leave the ending out"
            )
    return name


def check_distinct(names: Iterable[str]) -> None:
    """Names whose folders are different folders on every file system.

    Raises:
        SettingsError: two differ in nothing but upper and lower case, which many file systems take for the same.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise SettingsError(
                f"{other!r} and {name!r} would share a folder where upper and lower case count as the same; rename one"
            )


def check_path(path: str) -> str:
    """`path` in its plain form, without a `.` or an empty part: what the workflow can hand on as it stands.

    Raises:
        SettingsError: it is empty, begins like an option, or has braces (wildcards of the workflow), control
            characters or parts that are too long for a file system.
    """
    problem = None
    if not path.strip():
        problem = "is empty; name a folder or a file"
    elif any(letter in path for letter in "{}"):
        problem = "has braces, which the workflow would take for wildcards; rename the folder, or link to it"
    elif any(not letter.isprintable() for letter in path):
        problem = "has a character that cannot be printed; rename the folder, or link to it"
    elif path.startswith("-"):
        problem = "begins with a hyphen, like an option; write the whole path"
    elif any(len(part.encode("utf-8", "surrogateescape")) > 200 for part in path.split("/")) or len(path) > 2000:
        problem = "is too long for a file system; use a shorter path"
    if problem:
        raise SettingsError(f"the path {shortened(path)} {problem}")
    return str(PurePosixPath(path))


def any_of(names: Iterable[str]) -> str:
    """A regular expression that matches exactly the `names`, whatever characters they have; nothing where none is.

    >>> any_of(["c++", "a.b"]), any_of([])
    ('c\\\\+\\\\+|a\\\\.b', '(?!)')
    """
    return "|".join(re.escape(name) for name in names) or _NOTHING


def shortened(text: str, most: int = 60) -> str:
    """`text` in quotes for a message: control characters made visible, and no longer than a line."""
    return repr(text if len(text) <= most else text[:most] + "\N{HORIZONTAL ELLIPSIS}")

"""Text as data: what users write (titles, labels, names of classes and files) on its way to where it is shown.

Each function is the one way to one reader: a drawing, a line of a message, a spreadsheet, reStructuredText. Markdown
and LaTeX have theirs in `report.tables.formats`.
"""

from __future__ import annotations

import re
import unicodedata

from .errors import SettingsError

# a reader cannot see these, and they turn around the letters next to them
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\ufeff")
_SPACE = re.compile(r"[ \t\r\n]+")


def printable(text: str) -> str:
    r"""`text` on one line of valid Unicode: what has no glyph of its own becomes a visible escape.

    Line breaks, control characters, marks of direction, and bytes of a file name that are no UTF-8 (`\xe9`).

    >>> printable("a\tb\udce9")
    'a\\tb\\xe9'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter if _is_shown(letter) else _escape(letter) for letter in text)


def _is_shown(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") and letter not in _DIRECTIONS


def _escape(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that Python could not decode
        return f"\\x{code - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")


def check_line(text: str, longest: int = 200) -> str:
    """`text` on one line: line breaks and runs of spaces, as YAML's block styles leave them, become single spaces.

    Raises:
        SettingsError: it is too long, or holds what cannot be printed.
    """
    line = _SPACE.sub(" ", text).strip(" ")
    if len(line) > longest:
        raise SettingsError(f"this text has {len(line)} characters, and {longest} is the most; shorten it")
    for letter in line:
        if not _is_shown(letter):
            raise SettingsError(f"the text {line[:60]!r} holds {letter!r}, which cannot be printed; remove it")
    return line


def spreadsheet_cell(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula: an apostrophe stands before `=`, `+`, `-`, `@`.

    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("CE"), spreadsheet_cell("-0.5")
    ("'=1+1", 'CE', '-0.5')
    """
    if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", text):
        return "'" + text
    return text


def rst_escape(text: str) -> str:
    """`text` with everything that reStructuredText would read as markup made plain, on one line."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", printable(text))

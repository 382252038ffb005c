"""How every command ends: an error that the user can mend is one line and status 2, Ctrl-C one line and status 130, a
defect keeps its traceback."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from .errors import OpenSetError
from .signals import INTERRUPTED_STATUS


def run(main: Callable[[], None]) -> NoReturn:
    """Runs `main` and leaves the process: status 0, or `error: ...` on standard error with the status of an
    `OpenSetError` (2; 130 where Ctrl-C ended it)."""
    try:
        main()
    except OpenSetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("error: interrupted; nothing half-made is left, run again", file=sys.stderr)
        sys.exit(INTERRUPTED_STATUS)
    sys.exit(0)


def named_path(text: str) -> tuple[str, str]:
    """The parts of NAME=PATH, as an argument's type.

    Raises:
        argparse.ArgumentTypeError: not of this form.
    """
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, path

"""How every command ends: an error that the user can mend is one line and status 2, a defect keeps its traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from .errors import OpenSetError


def run(main: Callable[[], None]) -> NoReturn:
    """Runs `main` and leaves the process: status 0, or 2 with `error: ...` on standard error for an `OpenSetError`."""
    try:
        main()
    except OpenSetError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)

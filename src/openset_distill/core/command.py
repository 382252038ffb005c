"""How every command ends: in one line, whatever happens.

Exit statuses: 0 done; 1 a defect of this program (its trace is in a file that the line names); 2 something that the
user can mend, or a job that a scheduler's signal stopped with its state saved; 3 `tools/run_commands.py` has commands
left, the same call resumes; 130 interrupted; 141 whoever read the output has left.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .errors import OpenSetError
from .signals import INTERRUPTED_STATUS
from .text import printable

DEFECT, MENDABLE, UNREAD = 1, 2, 141
# where Snakemake keeps its own logs, and where a user looks for more
LOGS = Path(".snakemake/log")
_REMEDIES = {
    errno.ENOENT: "check the path, or run the step that makes it first",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "check the path",
    errno.ENOSPC: "free some space, then run again",
    errno.EDQUOT: "free some space, then run again",
    errno.EACCES: "choose a place that you may use, or change its permissions",
    errno.EPERM: "choose a place that you may use, or change its permissions",
    errno.EROFS: "choose a place that you may write to",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENOMEM: "use a machine with more memory, or smaller batches",
    errno.ENAMETOOLONG: "use a shorter path",
}


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs `main` and leaves the process with its status (nothing is 0), or with one line on standard error.

    The last line of defence: what `main` should have refused in its own words ends here in a line too, and the
    traceback, which helps whoever mends the defect, goes to a file.
    """
    try:
        status = main() or 0
        if sys.stdout is not None:  # closed by whoever started the command
            sys.stdout.flush()
    except OpenSetError as error:
        status = _say(str(error), error.status)
    except KeyboardInterrupt:
        status = _say("interrupted; what was complete is kept, and the same command resumes", INTERRUPTED_STATUS)
    except BrokenPipeError:
        # Python flushes standard output once more when it ends
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = UNREAD
    except Exception as error:
        status = _unexpected(error)
    sys.exit(status)


def _say(message: str, status: int) -> int:
    print("error: " + "\n".join(printable(line) for line in message.split("\n")), file=sys.stderr)
    return status


def _unexpected(error: Exception) -> int:
    """One line for what no message was written for, and the status."""
    kept = write_trace(error)
    trace = f"the trace is in {kept}" if kept else f"raised {_place_of(error)}"
    if isinstance(error, MemoryError):
        return _say(f"not enough memory; use a machine with more, or smaller batches ({trace})", MENDABLE)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("openset_distill"):
        remedy = "install the environment of requirements.lock, or the extra that brings it (pyproject.toml)"
        return _say(f"the package {error.name} is not installed; {remedy}", MENDABLE)
    words = " ".join(str(error).split())[:300] or "no further words"
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return _say(f"{place}{error.strerror}; {_REMEDIES[error.errno]} ({trace})", MENDABLE)
    return _say(f"unexpected {type(error).__name__}: {words}; this is a defect of the program: {trace}", DEFECT)


def write_trace(error: BaseException) -> Path | None:
    """Writes the whole traceback next to Snakemake's logs, or where temporary files go; None where neither can be."""
    text = "".join(traceback.format_exception(error))
    places = [LOGS] if LOGS.parent.is_dir() else []
    name = f"{time.strftime('%Y-%m-%dT%H%M%S')}.{Path(sys.argv[0]).stem}.{os.getpid()}.trace"
    for folder in (*places, None):
        try:
            path = (Path(tempfile.gettempdir()) if folder is None else folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:  # read-only, full, or no folder for temporary files at all
            continue
        return path
    return None


def _place_of(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"in {last.filename}, line {last.lineno}"


def renamed(parser: argparse.ArgumentParser, old: str, new: str) -> None:
    """Keeps an option's old name for one release: it does what the new one does, and says so on standard error."""
    action = parser._option_string_actions[new]

    class Renamed(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *arguments: Any, **_: Any) -> None:
            print(f"hint: {old} is now called {new}", file=sys.stderr)
            action(parser, *arguments)

    kind: Any = action.type  # None stands for text
    hidden = parser.add_argument(old, dest=action.dest, action=Renamed, type=kind, help=argparse.SUPPRESS)
    hidden.default = argparse.SUPPRESS


def natural(text: str) -> int:
    """A whole number from 0, as an argument's type.

    Raises:
        argparse.ArgumentTypeError: not one, or beyond 64 bits.
    """
    return _whole(text, 0)


def positive(text: str) -> int:
    """A whole number from 1, as an argument's type.

    Raises:
        argparse.ArgumentTypeError: not one, or beyond 64 bits.
    """
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return number


def json_object(*keys: str) -> Callable[[str], dict[str, Any]]:
    """A JSON object with at least these keys, as an argument's type."""

    def read(text: str) -> dict[str, Any]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise argparse.ArgumentTypeError(f"it is not valid JSON ({error})") from error
        missing = [key for key in keys if not isinstance(value, dict) or key not in value]
        if missing or not isinstance(value, dict):
            raise argparse.ArgumentTypeError(f"it must be a JSON object with the keys {', '.join(keys)}")
        return value

    return read


def named_path(text: str) -> tuple[str, str]:
    """The parts of NAME=PATH, as an argument's type.

    Raises:
        argparse.ArgumentTypeError: not of this form.
    """
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, path

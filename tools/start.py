"""Starts Snakemake after checking for mistakes that it would answer with a traceback.

    python tools/start.py two_sides --configfile config/experiments/cifar10.yaml

All arguments are passed on to Snakemake. Checked first: the files given by `--configfile`, the form of `--config`, and
the folders for caches and temporary files.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

from openset_distill.core.command import run
from openset_distill.core.errors import OpenSetError
from openset_distill.core.signals import INTERRUPTED_STATUS
from openset_distill.core.yaml_files import read_yaml


def values_of(words: Sequence[str], *options: str) -> Iterator[str]:
    """The values of options that take several, in either form: `--a x y` and `--a=x`."""
    taking = False
    for word in words:
        name, separator, value = word.partition("=")
        if word.startswith("-"):
            taking = word in options
            if separator and name in options:
                yield value
        elif taking:
            yield word


def check(words: Sequence[str]) -> None:
    """Raises an OpenSetError for words that Snakemake would answer with its own code."""
    from doctor import no_cache, no_temporary_folder

    for path in values_of(words, "--configfile", "--configfiles"):
        if not isinstance(read_yaml(path), dict):
            raise OpenSetError(f"{path} must hold a mapping of settings")
    for setting in values_of(words, "--config", "-C"):
        if "=" not in setting:
            raise OpenSetError(f"--config: {setting!r} is not KEY=VALUE; targets must come before --config")
    for problem in (*no_cache(), *no_temporary_folder()):
        raise OpenSetError(problem)


def main() -> None:
    """Checks the words, then becomes Snakemake with them."""
    from doctor import dead_lock

    words = sys.argv[1:]
    check(words)
    # in this process: Ctrl-C while Snakemake is imported or plans ends in a line, like everywhere else
    sys.path.pop(0)  # this folder, whose names modules may have too
    from snakemake.cli import main as snakemake

    sys.argv = ["snakemake", *words]
    pressed = []

    def interrupted(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        # objects that were being made complain when they are put away
        sys.unraisablehook = lambda _: None
        warnings.simplefilter("ignore")
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has it ignored
        signal.signal(signal.SIGINT, interrupted)
    try:
        snakemake(words)
    except SystemExit as ended:
        # Snakemake answers Ctrl-C in words that depend on what it was doing, and with the status of an error
        if ended.code and pressed:
            screen: Any = sys.modules.get("screen")  # there once the Snakefile was read
            if screen and screen.reasons_shown:
                sys.exit(INTERRUPTED_STATUS)
            raise KeyboardInterrupt from None
        # Snakemake says that the folder is locked, and not whether whoever locked it still lives
        for problem in dead_lock() if ended.code else ():
            print(f"error: {problem}", file=sys.stderr)
        raise


if __name__ == "__main__":
    run(main)

"""Errors that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OpenSetError(Exception):
    """Something the user can mend. The message names what failed, where, and the remedy.

    Commands print the message alone and exit with `status`; the trace of any other exception goes to a file.
    """

    status = 2


class SettingsError(OpenSetError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(OpenSetError):
    """A file of data is missing, damaged or not what it claims to be."""


class CheckpointError(OpenSetError):
    """A checkpoint is missing, damaged or belongs to another model."""


class TrainingError(OpenSetError):
    """Training cannot continue, for example because a loss is not finite."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`: the closest candidates, or all of them.

    >>> nearest("cutmx", ["mixup", "cutmix"])
    "did you mean 'cutmix'?"
    """
    known = sorted(candidates)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "known: " + ", ".join(known)

"""How a long job is asked to stop: Ctrl-C sends SIGINT, schedulers send SIGTERM or SIGUSR1 before they end it."""

from __future__ import annotations

import functools
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import ParamSpec, TypeVar

from .errors import OpenSetError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# what asks a job to stop
NOTICED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

# Ctrl-C reaches every process of a terminal, and some of them pass it on: what comes at once is one request
IMPATIENCE_SECONDS = 1.0
# what a shell reports of a command that Ctrl-C ended
INTERRUPTED_STATUS = 128 + signal.SIGINT


class Interrupted(OpenSetError):
    """The job was asked to stop; its state is saved and the same command resumes.

    Args:
        number: the signal; SIGINT ends a command with status 130, as shells expect, any other one with 2.
    """

    def __init__(self, message: str, number: int | None = None):
        super().__init__(message)
        if number == signal.SIGINT:
            self.status = INTERRUPTED_STATUS


def restores_handlers(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Makes the handlers of signals after a call those before it, however it ends but for `Interrupted`.

    After that the command ends, and a request to stop may consist of several signals.
    """

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        before = {number: signal.getsignal(number) for number in NOTICED}
        try:
            return function(*args, **kwargs)
        except Interrupted:
            before.clear()
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    return call


class GracefulShutdown:
    """Notices SIGINT, SIGTERM and SIGUSR1 from its creation to the end of the function, which `restores_handlers`.

    A second Ctrl-C, more than a second after the first, does not wait for the state to be saved.

    Attributes:
        requested: whether one came.
        number: which one came first.
    """

    def __init__(self) -> None:
        self.requested = False
        self.number: int | None = None
        self._when = 0.0
        for number in NOTICED:
            signal.signal(number, self._notice)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self.number, self._when = True, number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._when > IMPATIENCE_SECONDS:
            raise KeyboardInterrupt


def handle_in_thread(number: int) -> None:
    """Runs today's handler of a signal in a thread of its own.

    A handler runs in the main thread, between any two steps of it. One that takes a lock waits forever when the main
    thread holds this lock, as Snakemake's does for SIGTERM while jobs are chosen; a thread waits until it is free.
    """
    handler = signal.getsignal(number)
    if not callable(handler):
        return

    def begin(*about: object) -> None:
        threading.Thread(target=handler, args=about, daemon=True).start()

    signal.signal(number, begin)

"""How a long job is asked to stop: Ctrl-C sends SIGINT, schedulers send SIGTERM or SIGUSR1 before they end it."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from .errors import OpenSetError

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


class GracefulShutdown:
    """Notices SIGINT, SIGTERM and SIGUSR1 from its creation to `release`.

    A second Ctrl-C, more than a second after the first, does not wait for the state to be saved.

    Attributes:
        requested: whether one came.
        number: which one came first.
    """

    def __init__(self) -> None:
        self.requested = False
        self.number: int | None = None
        self._when = 0.0
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        self._before = {number: signal.signal(number, self._notice) for number in numbers}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self.number, self._when = True, number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._when > IMPATIENCE_SECONDS:
            raise KeyboardInterrupt

    def release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


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

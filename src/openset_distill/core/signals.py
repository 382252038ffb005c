"""How a long job is asked to stop: schedulers send SIGTERM or SIGUSR1 before they end it."""

from __future__ import annotations

import signal
from types import FrameType

from .errors import OpenSetError


class Interrupted(OpenSetError):
    """The job was asked to stop; its state is saved and the same command goes on from there."""


class StopRequest:
    """Notices SIGTERM and SIGUSR1 from its creation to `release`."""

    def __init__(self) -> None:
        self.requested = False
        self._before = {number: signal.signal(number, self._notice) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def release(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

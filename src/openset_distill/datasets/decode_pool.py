"""Image files of a dataset decoded by a pool of processes, in tasks of some hundred images."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.connection import wait as wait_for_any
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.text import printable
from .archives import open_archive
from .decode import decode
from .readers import Files

# One task: large enough to hide the cost of a message between processes, small enough that little is lost when a run
# is killed, and that the tasks which carry their images' bytes fit into memory.
CHUNK = 256
CHUNK_BYTES = 16 * 1024**2


@dataclass(frozen=True)
class Decoded:
    """What became of a task: `indices` are done, with `notes` about them; `failures` say which are not and why."""

    part: str
    indices: list[int]
    failures: list[str]
    notes: Counter[str]


@dataclass(frozen=True)
class _Task:
    """Some images to decode; `data` holds their bytes where the archive can only be read from front to back."""

    part: str
    indices: list[int]
    archive: Path
    names: list[str]
    data: list[bytes] | None
    target: Path
    size: int
    channels: int
    banner: int

    def __call__(self) -> Decoded:
        target = np.lib.format.open_memmap(self.target, mode="r+")
        done, failures, notes = [], [], Counter()
        for position, (index, name) in enumerate(zip(self.indices, self.names, strict=True)):
            where = f"{self.archive}: {name}"
            try:
                data = _read_member(self.archive, name) if self.data is None else self.data[position]
                found: Counter[str] = Counter()
                target[index] = decode(data, self.size, self.channels, where=where, banner=self.banner, notes=found)
                done.append(index)
                notes += found
            except DataError as error:
                failures.append(str(error))
        target.flush()
        return Decoded(self.part, done, failures, notes)


def decode_files(
    parts: Mapping[str, Files],
    pending: Mapping[str, Sequence[int]],
    folder: Path,
    size: int,
    channels: int,
    workers: int,
) -> Iterator[Decoded]:
    """Decodes the `pending` images of each part into `folder/<part>_images.npy`; yields each task as it is done.

    An image that cannot be decoded does not stop the others. With one worker all is done in this process.

    Raises:
        DataError: an archive lacks an image or is damaged, or a worker died.
    """
    yield from _run(_tasks(parts, pending, folder, size, channels), workers)


def _tasks(
    parts: Mapping[str, Files], pending: Mapping[str, Sequence[int]], folder: Path, size: int, channels: int
) -> Iterator[_Task]:
    streamed: dict[Path, dict[str, tuple[str, int]]] = {}

    def task(part: str, indices: Sequence[int], data: list[bytes] | None) -> _Task:
        files = parts[part]
        names = [files.names[index] for index in indices]
        target = folder / f"{part}_images.npy"
        return _Task(part, list(indices), files.archive, names, data, target, size, channels, files.banner)

    for part, files in parts.items():
        if files.random_access:
            for start in range(0, len(pending[part]), CHUNK):
                yield task(part, pending[part][start : start + CHUNK], None)
        else:
            wanted = streamed.setdefault(files.archive, {})
            for index in pending[part]:
                wanted[files.names[index]] = part, index
    for archive, wanted in streamed.items():
        waiting: dict[str, tuple[list[int], list[bytes]]] = {part: ([], []) for part in parts}
        with open_archive(archive) as opened:
            for member in opened if wanted else ():
                if member.name not in wanted:
                    continue
                part, index = wanted.pop(member.name)
                indices, data = waiting[part]
                indices.append(index)
                data.append(member.read())
                if len(indices) == CHUNK or sum(map(len, data)) >= CHUNK_BYTES:
                    yield task(part, indices, data)
                    waiting[part] = ([], [])
        for part, (indices, data) in waiting.items():
            if indices:
                yield task(part, indices, data)
        if wanted:
            raise DataError(f"{archive} lacks {min(wanted)}; the archive is incomplete: fetch it again")


def _run(tasks: Iterator[_Task], workers: int) -> Iterator[Decoded]:
    """Runs the tasks, in this process or in a pool; at most two tasks a worker wait at any time."""
    if workers <= 1:
        for task in tasks:
            yield task()
        return
    # Spawned, not forked: a fork would inherit the file lock, and copies of locks that other threads hold.
    context = multiprocessing.get_context("spawn")
    pool: ProcessPoolExecutor | None = None
    running: set[Future] = set()
    try:
        for task in tasks:
            pool = pool or ProcessPoolExecutor(workers, context, _end_with_parent)  # there may be no task at all
            running.add(pool.submit(task))
            if len(running) >= 2 * workers:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        for future in running:
            yield future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died while decoding images, probably for lack of memory; use fewer workers and run "
            "again (finished work is kept). A script of your own needs `if __name__ == '__main__':` around its call"
        ) from error
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for tasks for ever: watch the parent and end with it.

    Ctrl-C is the parent's business, which lets the workers finish what they have begun.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    if parent is None:  # this process is not a worker
        return

    def watch() -> None:
        wait_for_any([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _read_member(archive: Path, name: str) -> bytes:
    if archive.is_dir():
        try:
            return (archive / name).read_bytes()
        except OSError as error:
            raise DataError(
                printable(f"{archive / name} cannot be read: {error.strerror}; restore the file, then run again")
            ) from error
    return _open_zip(archive, archive.stat().st_mtime_ns)[name].read()


@lru_cache(maxsize=1)
def _open_zip(archive: Path, _mtime_ns: int) -> Any:
    """One open archive a process: reading the list of members of a large archive takes a second."""
    return open_archive(archive)

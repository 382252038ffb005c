"""Fetching archives: from a mirror folder or the official URLs, resumed, verified, recorded.

A file appears under its name only after its size and checksum were verified. `<file>.origin.json` beside it records
where it came from and its SHA-256.
"""

from __future__ import annotations

import glob
import hashlib
import http.client
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
import urllib3
from filelock import FileLock, Timeout
from tqdm import tqdm

from .. import __version__
from ..core.errors import DataError, OpenSetError, SettingsError, nearest
from ..core.files import atomic_write, read_json, write_json
from .catalog import Archive, Dataset, check_files, datasets, parse_checksum

MIRROR_VARIABLE = "OPENSET_MIRROR"

_CHUNK = 1024**2
_PROGRESS = 64 * 1024  # bytes that make a try of an url a success, though it did not reach the end
_SECONDS_BETWEEN_LINES = 10.0
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long a download is tried.

    `attempts`: tries of one URL in a row that bring nothing new; `first_wait`: seconds before the second try,
    doubled each time up to `longest_wait`; `connect_timeout`, `read_timeout`: seconds without an answer.
    """

    attempts: int = 4
    first_wait: float = 1.0
    longest_wait: float = 60.0
    connect_timeout: float = 10.0
    read_timeout: float = 60.0


@dataclass(frozen=True)
class Origin:
    """Where a fetched file came from. `verified` is the checksum that it was compared with, None on first use."""

    file: str
    source: str
    sha256: str
    size: int
    verified: str | None


@dataclass(frozen=True)
class Row:
    """One line of a listing of datasets. `state`: here, partial or missing; `size`: bytes, None where not known."""

    name: str
    state: str
    size: int | None
    licence: str


class _Unusable(Exception):
    """This source cannot give the file; the next one is tried."""


class _Mistrusted(_Unusable):
    """A user's own file, with other bytes than are expected: more copies of it would not help."""


class _Interrupted(Exception):
    """The transfer broke; it is tried again, after `wait` seconds where the server says so.

    `restart`: what came so far is of no use.
    """

    def __init__(self, reason: str, *, wait: float | None = None, restart: bool = False):
        super().__init__(reason)
        self.wait = wait
        self.restart = restart


def fetch(
    archive: Archive,
    folder: str | os.PathLike,
    *,
    mirror: str | os.PathLike | None = None,
    checksum: str | None = None,
    retries: RetryPolicy | None = None,
    progress: bool = True,
) -> Path:
    """Makes sure that `archive` lies in `folder`, verified, and returns its path.

    A file that is there is only verified. Otherwise the mirror folder is looked at (`mirror`, or the folders that the
    environment variable OPENSET_MIRROR names; also one folder below), then each URL in order. `checksum`
    (`sha256:...`) replaces the catalog's for a re-packed archive that the user trusts. Processes that fetch the
    same file at once all succeed: one works, the others wait.

    Raises:
        DataError: no source gives the file (the message lists all that was tried), or the file that is there is not
            the expected one.
        SettingsError: `checksum` is not of the form `algorithm:digits`.
        OpenSetError: the folder cannot be written, or the disk is full.
    """
    _fetch(archive, Path(folder), mirror, checksum, retries or RetryPolicy(), progress)
    return Path(folder) / archive.file


def fetch_dataset(
    dataset: Dataset,
    folder: str | os.PathLike,
    *,
    mirror: str | os.PathLike | None = None,
    checksums: Mapping[str, str] | None = None,
    urls: Mapping[str, Sequence[str]] | None = None,
    only: Collection[str] = (),
    retries: RetryPolicy | None = None,
    progress: bool = True,
) -> list[Origin]:
    """Fetches all files of a dataset, as `fetch` does, and tells where each came from.

    `checksums`: by file name, for re-packed archives that the user trusts; `urls`: by file name, where it is
    served instead of the catalog's URLs; files of other datasets are ignored in both. `only`: the files to fetch,
    all where empty.
    An archive that lies there unpacked (`Archive.unpacked`) is not fetched, and nothing can be verified of it.

    Raises:
        SettingsError: `checksums` or `urls` names a file that no dataset has, or `only` one that this one lacks.
        OpenSetError: as `fetch`.
    """
    folder = Path(folder)
    checksums, urls = checksums or {}, urls or {}
    check_files("data.checksum", checksums)
    check_files("data.urls", urls)
    for checksum in checksums.values():
        parse_checksum(checksum)
    for file in only:
        if file not in (names := [archive.file for archive in dataset.files]):
            raise SettingsError(f"{dataset.name} has no file {file!r}; {nearest(file, names)}")
    origins = []
    for archive in dataset.files:
        if only and archive.file not in only:
            continue
        if archive.file in urls:
            archive = archive.model_copy(update={"urls": tuple(urls[archive.file])})
        if not (folder / archive.file).exists() and _unpacked(archive, folder):
            _logger.warning("%s: the unpacked files in %s are used as they are, not verified", archive.file, folder)
            continue
        stated = checksums.get(archive.file)
        origins.append(_fetch(archive, folder, mirror, stated, retries or RetryPolicy(), progress))
    return origins


def status(folder: str | os.PathLike) -> list[Row]:
    """Which datasets are here, by the files in `folder/<name>`; no contents are read or verified."""
    rows = []
    for dataset in datasets().values():
        if dataset.name == "image_folder":
            continue  # the user's own images have no place here
        place = Path(folder) / dataset.name
        here = [(place / archive.file).is_file() or _unpacked(archive, place) for archive in dataset.files]
        if all(here):
            state = "here"
        elif any(here) or any(any(place.glob(_parts_of(archive.file))) for archive in dataset.files):
            state = "partial"
        else:
            state = "missing"
        sizes = [_size(place / archive.file) or archive.size for archive in dataset.files]
        known = [size for size in sizes if size is not None]
        rows.append(Row(dataset.name, state, sum(known) if len(known) == len(sizes) else None, dataset.licence))
    return rows


# ------------------------------------------------------------------------------------------------ one file


def _fetch(
    archive: Archive,
    folder: Path,
    mirror: str | os.PathLike | None,
    checksum: str | None,
    retries: RetryPolicy,
    progress: bool,
) -> Origin:
    job = _Fetch(archive, folder, checksum, retries, progress)
    if job.target.exists():
        return job.keep()  # before anything is written: the folder may be read-only
    mirrors = _mirrors(mirror)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / f".{archive.file}.lock", archive.file):
            return job.keep() if job.target.exists() else job.obtain(mirrors)
    except OSError as error:
        raise OpenSetError(
            f"cannot write {job.target}: {error.strerror or error}; "
            "choose a folder that you may write to, with free space, then run again"
        ) from error


class _Fetch:
    """The work of `fetch` for one file."""

    def __init__(self, archive: Archive, folder: Path, checksum: str | None, retries: RetryPolicy, progress: bool):
        self.archive = archive
        self.target = folder / archive.file
        self.record = _record(self.target)
        self.retries = retries
        self.progress = progress
        self.expected = archive.checksum if checksum is None else checksum
        self.size = archive.size if checksum is None else None  # a re-packed archive has another size
        if self.expected is not None:
            self.algorithm, self.digits = parse_checksum(self.expected)

    # -- verifying

    def keep(self) -> Origin:
        """Verifies the file that is there; writes its record when it has none."""
        if not self.target.is_file():
            raise DataError(f"{self.target} is not a file; remove it and fetch again")
        known = self._recorded()
        if known and not self.expected:
            self.expected, self.algorithm, self.digits = f"sha256:{known.sha256}", "sha256", known.sha256
        try:
            with open(self.target, "rb") as stream:
                sha256, problem = self._verify(stream)
        except OSError as error:
            raise DataError(f"cannot read {self.target}: {error.strerror or error}") from error
        if problem:
            raise DataError(
                f"{self.target} is not the expected file: it has {problem}. Delete it to fetch it again; "
                f"if you trust it, {self._stating(sha256)}"
            )
        if known is not None and known.sha256 == sha256:
            return known
        found = self._found("already there", sha256)
        try:
            write_json(self.record, asdict(found))
        except OpenSetError as error:
            _logger.warning("%s is used without a record of its checksum: %s", self.target, error)
        return found

    def _recorded(self) -> Origin | None:
        if not self.record.exists():
            return None
        try:
            return Origin(**read_json(self.record))
        except TypeError as error:
            raise OpenSetError(f"{self.record} is not a record of a download; delete it and run again") from error

    def _verify(self, stream: BinaryIO, copy: BinaryIO | None = None) -> tuple[str, str | None]:
        """The SHA-256 of a stream, and what is wrong with it; optionally copies it on the way."""
        sha256 = hashlib.sha256(usedforsecurity=False)
        other = hashlib.new(self.algorithm, usedforsecurity=False) if self.expected else sha256
        size = 0
        while chunk := stream.read(_CHUNK):
            size += len(chunk)
            sha256.update(chunk)
            if other is not sha256:
                other.update(chunk)
            if copy is not None:
                copy.write(chunk)
        problem = None
        if self.expected and other.hexdigest() != self.digits:
            problem = f"{self.algorithm}:{other.hexdigest()} ({size} bytes) where {self.expected} is expected"
        elif self.size is not None and size != self.size:
            problem = f"{size} bytes where {self.size} are expected"
        return sha256.hexdigest(), problem

    def _stating(self, sha256: str) -> str:
        return f"state its checksum in the configuration as data.checksum: {{{self.archive.file}: sha256:{sha256}}}"

    def _found(self, source: str, sha256: str) -> Origin:
        if not self.expected:
            _logger.warning(
                "no checksum of %s is published: sha256:%s is trusted now, recorded in %s and compared from now on",
                self.archive.file,
                sha256,
                self.record,
            )
        return Origin(self.archive.file, source, sha256, self.target.stat().st_size, self.expected)

    # -- sources

    def obtain(self, mirrors: list[Path]) -> Origin:
        """Fetches the file from the first source that gives it."""
        tried, mistrusted = [], False
        for source, attempt in self._sources(mirrors):
            try:
                sha256 = attempt(source)
            except _Unusable as reason:
                tried.append(f"  {source}: {reason}")
                mistrusted |= isinstance(reason, _Mistrusted)
                continue
            for line in tried:
                _logger.warning("not used:%s", line)
            found = self._found(str(source), sha256)
            write_json(self.record, asdict(found))
            for part in self.target.parent.glob(_parts_of(self.archive.file)):
                part.unlink()
            return found
        if not self.archive.urls:
            tried.append("  no URL serves it to everybody")
        remedies = [
            f"put the file into {self.target.parent} by hand",
            f"name a folder that holds it as the mirror ({MIRROR_VARIABLE}, or --mirror of the download command)",
        ]
        if mistrusted:
            remedies = ["state the checksum of your file, as told above"]
        remedies = [*filter(None, [self.archive.by_hand]), *remedies]
        raise DataError(
            "\n".join([f"cannot fetch {self.archive.file}; tried:", *tried, "try one of: " + "; or ".join(remedies)])
        )

    def _sources(self, mirrors: list[Path]) -> Iterator[tuple[Path | str, Callable[[Any], str]]]:
        for mirror in mirrors:
            candidates = [mirror / self.archive.file, *sorted(mirror.glob(f"*/{glob.escape(self.archive.file)}"))]
            found = [path for path in candidates if path.is_file()]
            yield from ((path, self._copy) for path in found or candidates[:1])
        yield from ((url, self._download) for url in self.archive.urls)

    def _copy(self, path: Path) -> str:
        """Copies a mirror's file; returns its SHA-256."""
        try:
            source = open(path, "rb")  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            raise _Unusable("the mirror has no such file") from None
        except OSError as error:
            raise _Unusable(f"cannot be read ({error.strerror or error})") from error
        with source, atomic_write(self.target) as partial:
            with open(partial, "wb") as copy:
                sha256, problem = self._verify(source, copy)
            if problem:
                raise _Mistrusted(f"it has {problem}; if you trust it, {self._stating(sha256)}")
        return sha256

    # -- URLs

    def _download(self, url: str) -> str:
        """Downloads from one URL; returns the SHA-256 of the file."""
        try:
            scheme = urlsplit(url).scheme
        except ValueError as error:
            raise _Unusable(f"is no URL ({error})") from error
        if scheme not in ("http", "https"):
            raise _Unusable("refused: only http and https URLs are used")
        # one part per URL: what two servers sent is not mixed
        key = hashlib.sha256(url.encode()).hexdigest()[:8]
        part = self.target.parent / f".{self.archive.file}.{key}.part"
        failures, restarts, before = 0, 0, _size(part)
        while True:
            try:
                resumed = self._transfer(url, part)
                with open(part, "rb") as stream:
                    sha256, problem = self._verify(stream)
                    os.fsync(stream.fileno())
                if problem is None:
                    part.replace(self.target)
                    return sha256
                if resumed:
                    raise _Interrupted(f"the resumed file has {problem}", wait=0.0, restart=True)
                part.unlink()
                raise _Unusable(f"what it sends has {problem}")
            except _Interrupted as reason:
                failures = 1 if _size(part) >= before + _PROGRESS else failures + 1
                before = max(before, _size(part))
                if reason.restart:
                    part.unlink(missing_ok=True)
                    restarts, before = restarts + 1, 0
                if max(failures, restarts) >= self.retries.attempts:
                    raise _Unusable(f"{reason} ({self.retries.attempts} attempts)") from reason
                wait = self.retries.first_wait * 2 ** (failures - 1) if reason.wait is None else reason.wait
                wait = min(wait, self.retries.longest_wait)
                _logger.warning("%s: %s; trying again in %g s", url, reason, wait)
                time.sleep(wait)

    def _transfer(self, url: str, part: Path) -> bool:
        """Brings `part` to its end; returns whether it began with bytes of an earlier transfer."""
        # only a known checksum tells whether the pieces fit
        start = _size(part) if self.expected else 0
        if self.size is not None and start >= self.size:
            if start == self.size:
                return True
            start = 0
        with self._answer(url, start) as response:
            if response.status_code == 416:  # the server has no more of it
                return True
            if response.status_code == 200:
                start = 0  # also where the server does not resume
            length = _number(response.headers.get("Content-Length", ""))
            total = start + length if length is not None else None
            if self.size is not None and total not in (None, self.size):
                if start:
                    raise _Interrupted("it offers another part than was asked for", wait=0.0, restart=True)
                raise _Unusable(f"offers {total} bytes where {self.size} are expected")
            free = shutil.disk_usage(part.parent).free
            if total is not None and total - start > free:
                raise OpenSetError(
                    f"{self.archive.file} needs {total - start} bytes more in {part.parent}, which has {free} free; "
                    "free some space or choose another folder, then run again"
                )
            with (
                open(part, "ab" if start else "wb") as stream,
                _shown(self.archive.file, url, start, total, self.progress) as show,
            ):
                size = start
                for chunk in _chunks(response):
                    stream.write(chunk)
                    show(len(chunk))
                    size += len(chunk)
                    if self.size is not None and size > self.size:
                        raise _Unusable(f"sends more than the {self.size} bytes that are expected")
            if total is not None and size < total:
                raise _Interrupted(f"the connection ended after {size} of {total} bytes")
        return start > 0

    @contextmanager
    def _answer(self, url: str, start: int) -> Iterator[requests.Response]:
        """The server's answer: status 200 or, of what follows `start`, 206 with contents or 416 where nothing does."""
        headers = {"User-Agent": f"openset-distill/{__version__}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout = (self.retries.connect_timeout, self.retries.read_timeout)
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=timeout)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Interrupted(_reason(error)) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            # ValueError: it redirects to something that is no URL
            raise _Unusable(_reason(error)) from error
        with response:
            code = response.status_code
            if code in _TEMPORARY:
                after = _number(response.headers.get("Retry-After", ""))
                raise _Interrupted(f"HTTP status {code}", wait=None if after is None else float(after))
            if code != 200 and not (start and code in (206, 416)):
                raise _Unusable(f"HTTP status {code}")
            if url.startswith("https:") and not response.url.startswith("https:"):
                raise _Unusable("leads to a URL that is not secured")
            if code != 416 and response.headers.get("Content-Type", "").startswith("text/html"):
                raise _Unusable("sends a web page, not the file (it may ask for a login)")
            yield response


# ------------------------------------------------------------------------------------------------ small parts


def _record(target: Path) -> Path:
    return target.with_name(target.name + ".origin.json")


def _parts_of(file: str) -> str:
    """The pattern of the names of unfinished downloads of `file`."""
    return f".{glob.escape(file)}.????????.part*"


def _unpacked(archive: Archive, folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for pattern in archive.unpacked)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mirrors(mirror: str | os.PathLike | None) -> list[Path]:
    if mirror is not None:
        folders, named_by = [Path(mirror)], "the mirror"
    else:
        named = os.environ.get(MIRROR_VARIABLE, "")
        folders, named_by = [Path(name) for name in named.split(os.pathsep) if name], MIRROR_VARIABLE
    for folder in folders:
        if not folder.is_dir():
            raise OpenSetError(f"{folder}, named by {named_by}, is not a folder; correct the name")
    return folders


@contextmanager
def _locked(path: Path, what: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        _logger.warning("another process fetches %s; waiting for it", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _number(text: str) -> int | None:
    """A whole number of a header; None for any other text, with digits of other scripts too."""
    return int(text) if re.fullmatch(r"[0-9]{1,30}", text) else None


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        # the bytes as they are: some servers call a .tar.gz file a compressed .tar file
        yield from response.raw.stream(_CHUNK, decode_content=False)
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
        raise _Interrupted(f"the connection broke ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    """The innermost cause in words; requests and urllib3 wrap it several times."""
    while True:
        inner = getattr(error, "reason", None) or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return f"{type(error).__name__}: {str(error).rpartition('>: ')[2]}"


@contextmanager
def _shown(file: str, url: str, start: int, total: int | None, wanted: bool) -> Iterator[Callable[[int], object]]:
    """Shows progress on standard error: a bar in a terminal, now and then a line elsewhere."""
    if not wanted:
        yield lambda _: None
        return
    if sys.stderr.isatty():
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=file) as bar:
            yield bar.update
        return
    whole = f" of {total / 1e6:.1f}" if total is not None else ""
    done, said = start, time.monotonic()

    def count(new: int) -> None:
        nonlocal done, said
        done += new
        if time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            print(f"{file}: {done / 1e6:.1f}{whole} MB", file=sys.stderr, flush=True)

    print(f"{file}: from {url}, {done / 1e6:.1f}{whole} MB", file=sys.stderr, flush=True)
    yield count
    print(f"{file}: {done / 1e6:.1f} MB are here", file=sys.stderr, flush=True)

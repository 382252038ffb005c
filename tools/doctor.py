"""Diagnoses problems that keep Snakemake or DVC from working here, and suggests fixes.

    python tools/doctor.py

It changes nothing. The exit status is 2 if a problem was found.
"""

from __future__ import annotations

import argparse
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from openset_distill.core.command import run
from openset_distill.core.errors import OpenSetError
from openset_distill.core.files import is_in_use
from openset_distill.datasets.prepared import verify

# clocks of one cluster differ by less
SKEW_SECONDS = 60
WAIT_SECONDS = 5
PORTS = {"http": 80, "https": 443, "s3": 443, "ssh": 22}


def read_only() -> Iterator[str]:
    """Folders that cannot be written."""
    for folder in (Path(), *map(Path, (".snakemake", ".dvc", "results", "data"))):
        if folder.exists() and not os.access(folder, os.W_OK):
            yield f"{folder.resolve()} cannot be written: clone the repository into a folder of your own"


def no_cache() -> Iterator[str]:
    """A home that takes no caches: Snakemake ends before it reads the Snakefile."""
    # where Snakemake, DVC and matplotlib look
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path(os.environ.get("HOME") or Path.home(), ".cache"))
    if not _can_be_made(folder):
        yield f"the cache folder {folder} cannot be written: set XDG_CACHE_HOME to a folder of your own"


def no_temporary_folder() -> Iterator[str]:
    """No place for temporary files."""
    named = os.environ.get("TMPDIR")
    if named and not (Path(named).is_dir() and os.access(named, os.W_OK)):
        yield f"TMPDIR names {named}, which is not a writable folder: choose another one, or unset it"
        return
    try:
        with tempfile.TemporaryFile() as stream:
            stream.write(bytes(1 << 16))
    except OSError as error:
        yield (
            f"{named or '/tmp'} cannot hold temporary files ({error.strerror}): free some space there, "
            "or set TMPDIR to another folder"
        )


def _can_be_made(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _runs_snakemake(words: Sequence[str] | None) -> bool:
    """Whether a command line is that of Snakemake, which `make` starts through `tools/start.py`."""
    return any(Path(word).name == "snakemake" or word.endswith("tools/start.py") for word in words or ())


def dead_lock() -> Iterator[str]:
    """A lock of Snakemake that no process but this one may hold."""
    if any(Path(".snakemake/locks").glob("*.lock")):
        here = str(Path.cwd())
        living = [
            process.pid
            for process in psutil.process_iter(["cwd", "cmdline"])
            if process.pid != os.getpid() and process.info["cwd"] == here and _runs_snakemake(process.info["cmdline"])
        ]
        if living:
            yield f"process {living[0]} runs Snakemake here: wait for it, or end it with `kill {living[0]}`"
        else:
            yield "a process that held Snakemake's lock is dead: `snakemake --unlock`, then the same command again"


def orphans() -> Iterator[str]:
    """Trainings that still run although the Snakemake that started them is gone."""
    here = str(Path.cwd())
    for process in psutil.process_iter(["cwd", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] != here or not words or "python" not in Path(words[0]).name:
            continue
        if not any(word.endswith("workflow_scripts/train.py") for word in words) or "--weights" not in words:
            continue
        try:
            above = [parent.cmdline() for parent in process.parents()]
        except psutil.Error:
            continue
        if not any(map(_runs_snakemake, above)):
            folder = Path(words[words.index("--weights") + 1]).parent
            yield (
                f"process {process.pid} still trains {folder}, and the Snakemake that started it is gone: wait for it, "
                f"or `kill {process.pid}`, which saves its state"
            )


def half_written() -> Iterator[str]:
    """What killed jobs left behind; what a living process is writing is not."""
    for folder in (Path("results"), Path("data")):
        for path in sorted(folder.rglob(".*.partial")):
            if path.is_dir():
                yield f"{path} is a half-prepared dataset: the same command continues it"
            elif not is_in_use(path):
                yield f"{path} is a half-written file of a killed process; the next run of that job removes it"
        for path in sorted(folder.rglob("*state.safetensors")):
            if not is_in_use(path.parent):
                yield f"{path} is the saved state of a stopped job: the same command resumes it"


def from_the_future() -> Iterator[str]:
    """Files with a later time than this machine's clock shows; Snakemake refuses to build on them."""
    now = time.time()
    folders = ("config", "data", "results", "rules", "src", "tools", "workflow_scripts")
    for path in (path for folder in folders for path in sorted(Path(folder).rglob("*")) if path.is_file()):
        ahead = path.stat().st_mtime - now
        if ahead > SKEW_SECONDS:
            yield (
                f"{path} is {ahead / 60:.0f} minutes in the future: set the clock of this machine "
                f"or of the one that wrote it, then `touch {path}`"
            )


def unreachable_remote() -> Iterator[str]:
    """Remotes of DVC that do not answer."""
    from dvc.config import Config
    from dvc.exceptions import DvcException

    if not Path(".dvc").exists():
        return
    try:
        remotes = Config(str(Path(".dvc").resolve()), validate=False).get("remote", {})
    except (DvcException, ValueError, AttributeError) as error:
        words = " ".join(str(error).split()) or "it is damaged"
        yield f".dvc/config or .dvc/config.local cannot be read ({words}): correct it, or `git checkout -- .dvc/config`"
        return
    for name, settings in remotes.items():
        if not isinstance(settings, dict) or not settings.get("url"):
            yield f"remote {name} has no URL in .dvc/config: `dvc remote modify {name} url URL`"
            continue
        reason = _unreachable(settings)
        if reason:
            yield (
                f"remote {name} ({settings['url']}) cannot be reached, {reason}: check its URL (`dvc remote list`) "
                "and the network, or choose another one with `--remote`"
            )


def _unreachable(settings: dict[str, Any]) -> str | None:
    try:
        address = urlsplit(settings.get("endpointurl") or settings["url"])
        port = int(settings.get("port") or address.port or PORTS.get(address.scheme, 0))
    except ValueError as error:
        return str(error)
    if address.scheme not in PORTS:
        return None if Path(settings["url"]).exists() else "the folder does not exist"
    if address.scheme == "s3":
        return None  # the provider's own address, which its library finds
    try:
        socket.create_connection((address.hostname or "", port), timeout=WAIT_SECONDS).close()
    except OSError as error:
        return str(error)
    return None


def changed_images() -> Iterator[str]:
    """Prepared datasets whose bytes are not those that were prepared."""
    for manifest in sorted(Path("data/prepared").rglob("manifest.json")):
        try:
            verify(manifest.parent)
        except OpenSetError as error:
            yield str(error)


CHECKS: tuple[Callable[[], Iterator[str]], ...] = (
    read_only,
    no_cache,
    no_temporary_folder,
    dead_lock,
    orphans,
    half_written,
    from_the_future,
    unreachable_remote,
)


def main() -> None:
    """Prints the problems found, with their fixes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verify", action="store_true", help="also compare all prepared images with their checksums")
    checks = (*CHECKS, changed_images) if parser.parse_args().verify else CHECKS
    found = [problem for check in checks for problem in check()]
    if found:
        raise OpenSetError("\n       ".join([f"{len(found)} found", *found]))
    print("no problem was found for Snakemake or DVC here")


if __name__ == "__main__":
    run(main)

"""Looks for what keeps Snakemake or DVC from working here, and says for each what helps.

    python tools/doctor.py

It changes nothing. Status 2 where something was found.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from openset_distill.core.command import run
from openset_distill.core.errors import OpenSetError
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


def dead_lock() -> Iterator[str]:
    """A lock of Snakemake that no process holds."""
    if any(Path(".snakemake/locks").glob("*.lock")):
        here = str(Path.cwd())
        living = [
            process.pid
            for process in psutil.process_iter(["name", "cwd", "cmdline"])
            if process.info["cwd"] == here and any("snakemake" in word for word in process.info["cmdline"] or ())
        ]
        if living:
            yield f"process {living[0]} runs Snakemake here: wait for it, or end it with `kill {living[0]}`"
        else:
            yield "a process that held Snakemake's lock is dead: `snakemake --unlock`, then the same command again"


def half_written() -> Iterator[str]:
    """What killed jobs left behind."""
    for folder in (Path("results"), Path("data")):
        for path in sorted(folder.rglob(".*.partial")):
            yield f"{path} is what a killed process had begun to write; the next run of that job removes it"
        for path in sorted(folder.rglob("*state.safetensors")):
            yield f"{path} is the state of a job that was stopped: the same command goes on from there"


def from_the_future() -> Iterator[str]:
    """Files with a later time than this machine's clock shows; Snakemake refuses to build on them."""
    now = time.time()
    folders = ("config", "data", "results", "rules", "src", "tools", "workflow_scripts")
    for path in (path for folder in folders for path in sorted(Path(folder).rglob("*")) if path.is_file()):
        ahead = path.stat().st_mtime - now
        if ahead > SKEW_SECONDS:
            yield (
                f"{path} is {ahead / 60:.0f} minutes from the future: set this machine's clock "
                f"or that of the one which wrote it, then `touch {path}`"
            )


def unreachable_remote() -> Iterator[str]:
    """Remotes of DVC that do not answer."""
    from dvc.config import Config, ConfigError

    if not Path(".dvc").exists():
        return
    try:
        remotes = Config(str(Path(".dvc").resolve()), validate=False).get("remote", {})
    except (ConfigError, ValueError) as error:
        reason = " ".join(str(error).split())
        yield f".dvc/config cannot be read ({reason}): mend the line, or take the file of the repository back"
        return
    for name, settings in remotes.items():
        if not settings.get("url"):
            yield f"remote {name} has no url: name it with `dvc remote add --force {name} URL`, or remove it"
            continue
        reason = _unreachable(settings)
        if reason:
            yield (
                f"remote {name} ({settings['url']}) cannot be reached, {reason}: check its address (`dvc remote list`) "
                "and the network, or name another one with `--remote`"
            )


def _unreachable(settings: dict[str, Any]) -> str | None:
    address = urlsplit(settings.get("endpointurl") or settings["url"])
    if address.scheme not in PORTS:
        return None if Path(settings["url"]).exists() else "the folder does not exist"
    if address.scheme == "s3":
        return None  # the provider's own address, which its library finds
    try:
        port = int(settings.get("port") or address.port or PORTS[address.scheme])
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
    dead_lock,
    half_written,
    from_the_future,
    unreachable_remote,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verify", action="store_true", help="also compare all prepared images with their checksums")
    checks = (*CHECKS, changed_images) if parser.parse_args().verify else CHECKS
    found = [problem for check in checks for problem in check()]
    if found:
        raise OpenSetError("\n       ".join([f"{len(found)} found", *found]))
    print("nothing is in the way of Snakemake or DVC here")


if __name__ == "__main__":
    run(main)

"""A checkout of the repository in a folder of its own, where tests run the workflow as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from commands import REPOSITORY

PARTS = ("Snakefile", "rules", "workflow_scripts", "tools", "config", "profiles", "src", "environment.yml")


def checkout(folder: Path) -> Path:
    """Links to all that the workflow reads: what it writes stays in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if not (folder / part).exists():
            (folder / part).symlink_to(REPOSITORY / part)
    return folder


def snakemake(folder: Path, *words: object, timeout: float = 300, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs Snakemake in a checkout, with this interpreter first on the path and no mirror unless one is given."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENSET_MIRROR"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment | variables,
    )


def write_configuration(folder: Path, configuration: dict) -> str:
    """The name of a configuration file in a checkout."""
    (folder / "test.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False))
    return "test.yaml"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of an HTTP server of the files in `folder`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

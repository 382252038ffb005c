"""Where a result comes from: code, settings, inputs, software, hardware, time and memory."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .errors import OpenSetError
from .files import sha256

PACKAGES = ("openset-distill", "torch", "torchvision", "timm", "numpy", "scikit-learn")


def git_commit() -> str | None:
    """The commit of the working tree with `-dirty` where tracked files differ; None outside a git checkout."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], capture_output=True).returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("-dirty" if changed else "")


def processor() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform module knows less, but something
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Provenance:
    """Starts the clock; `record` then gives everything as plain data."""

    def __init__(self, inputs: Iterable[str | Path]):
        self.started = time.time()
        self.inputs = {str(path): self._hash(path) for path in inputs}

    @staticmethod
    def _hash(path: str | Path) -> str:
        try:
            return sha256(path)
        except OSError as error:
            raise OpenSetError(f"cannot read {path}: {error.strerror}; run the step that makes it first") from error

    def record(self, **more: Any) -> Mapping[str, Any]:
        """The record: `more` is added as it is (device, images seen...). Sizes in MiB, times in seconds."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "git_commit": git_commit(),
            "inputs_sha256": self.inputs,
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "started_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "wall_seconds": round(time.time() - self.started, 3),
            "peak_memory_mib": round(peak, 1),
            **more,
        }

"""Where a result comes from: code, inputs, software, hardware, time, memory and energy."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from .errors import OpenSetError
from .files import sha256

PACKAGES = (
    "openset-distill", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "safetensors",
)  # fmt: skip
# where Linux shows the energy counters of processors
POWERCAP = Path("/sys/class/powercap")


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


def gpus() -> list[str]:
    """The names of the GPUs; none where torch is not in use or sees none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


class Energy:
    """What the machine's own counters say was used since this was made. They count all jobs on the machine."""

    def __init__(self, powercap: Path = POWERCAP):
        self._powercap = powercap
        self._before, self._gpu_before = self._processors(), self._gpus()

    def _processors(self) -> dict[Path, int]:
        """Counter of each processor package (microjoules); those of its parts, `intel-rapl:0:0`, are in it."""
        counters = {}
        for zone in sorted(self._powercap.glob("*-rapl:[0-9]*")):
            if zone.name.count(":") == 1:
                try:
                    counters[zone] = int((zone / "energy_uj").read_text())
                except (OSError, ValueError):
                    return {}  # readable by root alone on many systems
        return counters

    @staticmethod
    def _gpus() -> list[int]:
        """Counter of each NVIDIA GPU in this machine (millijoules)."""
        if not gpus():
            return []
        import pynvml

        try:
            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
            return [pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles]
        except pynvml.NVMLError:
            return []  # older than Volta, or a driver that does not say

    def joules(self) -> dict[str, float | None]:
        """`processors` and `gpus`; None where the machine has no counter, or does not show it."""
        after, gpu_after = self._processors(), self._gpus()
        processors = None
        if self._before and after.keys() == self._before.keys():
            used = 0
            for zone, count in after.items():
                difference = count - self._before[zone]
                if difference < 0:  # the counter began anew
                    difference += int((zone / "max_energy_range_uj").read_text())
                used += difference
            processors = round(used / 1e6, 3)
        known = self._gpu_before and len(gpu_after) == len(self._gpu_before)
        return {
            "processors": processors,
            "gpus": round((sum(gpu_after) - sum(self._gpu_before)) / 1e3, 3) if known else None,
        }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class Provenance:
    """Starts the clock; `record` then gives everything as plain data."""

    def __init__(self, inputs: Iterable[str | Path]):
        self.started = time.time()
        self.energy = Energy()
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
            "memory_mib": psutil.virtual_memory().total // 2**20,
            "gpus": gpus(),
            "started_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "wall_seconds": round(time.time() - self.started, 3),
            "peak_memory_mib": round(peak, 1),
            "machine_energy_joules": self.energy.joules(),
            **more,
        }

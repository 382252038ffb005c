"""Where a result comes from: code, inputs, software, hardware, time, memory and energy."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from .errors import OpenSetError
from .files import sha256
from .text import printable

PACKAGES = (
    "openset-distill", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "safetensors",
)  # fmt: skip
# the checkout that this very file is in, also where a folder of links leads here
ROOT = Path(__file__).resolve().parents[3]
# what a job could import or run, and what Snakemake or Python would take for code there
CODE = ("src", "workflow_scripts", "tools", "rules", "Snakefile", "profiles")
RUNNABLE = (".py", ".pyc", ".pyd", ".so", ".smk", ".pth")
_HIDDEN = frozenset("hsScmrk")
# where Linux shows the energy counters of processors
POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Code:
    """Which code runs.

    Attributes:
        commit: of this very checkout, with `-dirty` where anything in `changed` differs from it; None where unknown.
        changed: files with other contents than the commit has, and modules that it does not have.
        unknown: why there is no commit; None where there is one.
    """

    commit: str | None
    changed: tuple[str, ...] = ()
    unknown: str | None = None


def code_state(root: Path = ROOT) -> Code:
    """The commit of the checkout in `root`, asked of git; a repository around it is another one and does not count.

    Files that git ignores count too, as far as Python or Snakemake could run them: ignored is not unused.
    """
    try:
        top = _git(root, "rev-parse", "--show-toplevel").strip()
        if Path(top).resolve() != root.resolve():
            return Code(None, unknown=f"{root} is no checkout of its own; it lies in the repository {top}")
        commit = _git(root, "rev-parse", "--verify", "HEAD^{commit}").strip()
        changed = _git(root, "diff", "--name-only", "-z", "--no-ext-diff", "HEAD").split("\0")
        untracked = _git(root, "ls-files", "--others", "-z", "--", *CODE).split("\0")
        # marked so that git does not look at them: nobody knows whether they changed
        hidden = [
            line[2:] for line in _git(root, "ls-files", "-v", "-z", "--", *CODE).split("\0") if line[:1] in _HIDDEN
        ]
    except FileNotFoundError:
        return Code(None, unknown="git is not installed, or the folder of the code is gone")
    except subprocess.CalledProcessError as error:
        return Code(None, unknown=_reason(root, error.stderr))
    except (OSError, subprocess.TimeoutExpired) as error:
        return Code(None, unknown=f"git did not answer: {error}")
    modules = [name for name in untracked if name.endswith(RUNNABLE) and "__pycache__" not in name]
    names = tuple(printable(name) for name in sorted({*changed, *modules, *hidden} - {""}))
    return Code(commit + ("-dirty" if names else ""), names)


def _git(root: Path, *words: str) -> str:
    # variables of a hook or an alias around this process would name another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(root), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="surrogateescape", check=True, timeout=60, env=environment
    )
    return done.stdout


def _reason(root: Path, words: str) -> str:
    """Why git knows no commit, in one line."""
    if "dubious ownership" in words:
        return (
            f"{root} belongs to another user, so git does not read it: "
            f"`git config --global --add safe.directory {shlex.quote(str(root))}` allows it"
        )
    if "not a git repository" in words:
        return f"{root} is not a git repository; clone it instead of copying its files"
    if "Needed a single revision" in words or "unknown revision" in words:
        return f"the repository {root} has no commit yet"
    return f"git says: {' '.join(words.split())[:200]}"


def processor() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux: the platform module knows less, but something
    return platform.processor() or platform.machine()


def gpu() -> dict[str, Any] | None:
    """The GPU that this process computes on, with what decides its bits; None where it computes on none.

    `name`; `uuid`; `driver`; `cuda` and `cudnn` of the PyTorch build; `tf32`: whether a float32 convolution or product
    may be computed in it; `peak_memory_mib` of this process.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    number = torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(number)
    return {
        "name": properties.name,
        "uuid": str(properties.uuid),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32),
        "peak_memory_mib": torch.cuda.max_memory_allocated(number) // 2**20,
    }


def _driver() -> str | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def _gpu_millijoules(uuid: str) -> int | None:
    """The energy counter of one NVIDIA GPU by its identity; None where it has none, as a slice of a GPU (MIG)."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None  # older than Volta, or a driver that does not say


class Energy:
    """What the machine's own counters say was used since this was made, after `prepare_device`: by all jobs on its
    processors, and on the GPU that this process computes on."""

    def __init__(self, powercap: Path = POWERCAP):
        self._powercap = powercap
        here = gpu()
        self._uuid = here["uuid"] if here else None
        self._before, self._gpu_before = self._processors(), self._gpu()

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

    def _gpu(self) -> int | None:
        return None if self._uuid is None else _gpu_millijoules(self._uuid)

    def joules(self) -> dict[str, float | None]:
        """`processors` and `gpus`; None where the machine has no counter, or does not show it."""
        after, gpu_after = self._processors(), self._gpu()
        processors = None
        if self._before and after.keys() == self._before.keys():
            used = 0
            for zone, count in after.items():
                difference = count - self._before[zone]
                if difference < 0:  # the counter began anew
                    difference += int((zone / "max_energy_range_uj").read_text())
                used += difference
            processors = round(used / 1e6, 3)
        gpus = None
        if gpu_after is not None and self._gpu_before is not None:
            gpus = round((gpu_after - self._gpu_before) / 1e3, 3)
        return {
            "processors": processors,
            "gpus": gpus,
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
        # now: what is committed or edited while the job runs is not what it runs
        self.code = code_state()
        if self.code.unknown:
            print(f"warning: the commit of this code is unknown: {self.code.unknown}", file=sys.stderr)
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
        on = gpu()
        return {
            "git_commit": self.code.commit,
            "git_changed": list(self.code.changed),
            "git_unknown": self.code.unknown,
            "inputs_sha256": self.inputs,
            "python": platform.python_version(),
            "packages": {name: _version(name) for name in PACKAGES},
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "cores_allocated": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_mib": psutil.virtual_memory().total // 2**20,
            "gpus": [on["name"]] if on else [],
            "gpu": on,
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "started_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "wall_seconds": round(time.time() - self.started, 3),
            "peak_memory_mib": round(peak, 1),
            "machine_energy_joules": self.energy.joules(),
            **more,
        }

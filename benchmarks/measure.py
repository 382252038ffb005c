"""What the benchmarks share: the machine's description, processes that are timed and weighed, and small datasets."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from openset_distill.core.provenance import code_state, processor

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = REPOSITORY / "workflow_scripts"


def machine(*packages: str) -> dict[str, Any]:
    """Hardware, versions and commit: what every file of results begins with."""
    import torch

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": gpus,
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "commit": code_state().commit,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def together(commands: Sequence[Sequence[object]], threads: int | None = None) -> list[dict[str, Any]]:
    """Runs commands side by side and says of each what it printed last (JSON), when it began and how long it took.

    Args:
        threads: OMP_NUM_THREADS of each.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    started, results = [], []
    for command in commands:
        out = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads could fill up
        words = [str(word) for word in command]
        began = time.time()
        process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=REPOSITORY)
        started.append((words, process, began, out))
    for words, process, began, out in started:
        process.wait()
        out.seek(0)
        said = out.read()
        out.close()
        if process.returncode:
            raise SystemExit(f"{' '.join(words)[:300]} failed:\n{said[-3000:]}")
        lines = said.strip().splitlines()
        printed = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
        results.append(printed | {"began": began, "wall": time.time() - began})
    return results


def peak_mib() -> float:
    """The most memory that this process has held so far."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def python(script: str | Path, *arguments: object) -> list[object]:
    return [sys.executable, script, *arguments]


def synthetic(folder: Path, size: int, images: int = 640, classes: int = 20) -> dict[str, Path]:
    """A prepared dataset of smooth random images, its split, and the same images as PNG files."""
    rng = np.random.default_rng(0)
    for part, count in (("train", images), ("test", 2 * classes)):
        for number in range(count):
            path = folder / "raw" / part / f"{number % classes:02d}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC).save(path)
    options = ["--raw", folder / "raw"]
    protocol = '{"name": "random", "known": ' + str(classes - 2) + "}"
    prepared, split = prepared_with_split(folder, "image_folder", size, protocol, *options)
    files = {"prepared": prepared, "split": split, "description": split.with_suffix(".json")}
    return files | {"images": exported(prepared, split, folder / "png")}


def prepared_with_split(folder: Path, dataset: str, size: int, protocol: str, *options: object) -> tuple[Path, Path]:
    """A dataset as the workflow's own commands prepare it, in colour, and split 0 of a protocol: folder, split.npz."""
    prepared, split = folder / "prepared", folder / "split" / "split.npz"
    names = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "manifest.json")
    outputs = [word for n in names for word in (f"--{n.partition('.')[0].replace('_', '-')}", prepared / n)]
    prepare = python(SCRIPTS / "prepare.py", "--dataset", dataset, *options, "--size", size, "--channels", 3, *outputs)
    arrays = ["--arrays", split, "--description", split.with_suffix(".json"), "--validation-fraction", 0]
    together([prepare])
    together([python(SCRIPTS / "split.py", "--prepared", prepared, "--protocol", protocol, *arrays)])
    return prepared, split


def exported(prepared: Path, split: Path, folder: Path) -> Path:
    """The folder with the images of a split as PNG files."""
    script = REPOSITORY / "benchmarks" / "export_images.py"
    together([python(script, "--prepared", prepared, "--split", split, "--images", folder)])
    return folder


def spread(values: Sequence[float], digits: int = 1) -> dict[str, Any]:
    """Median, smallest, largest and number of measurements."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "n": len(values),
    }

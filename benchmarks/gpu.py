"""Fills the GPU rows of docs/benchmarks.md: how fast networks train on this GPU, alone and side by side.

    python benchmarks/gpu.py [--minutes 9] [--json docs/benchmarks/gpu.json]
    python benchmarks/report.py

Each row is one case, method and number of trainings that share the GPU: images a second of all together, how busy the
GPU was by NVML, and its memory. What is measured is kept: a call that runs out of time is followed by the same call.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import REPOSITORY, machine, python, synthetic, together
from training import CASES, Case, job, rate

from openset_distill.core.command import positive, run
from openset_distill.core.errors import OpenSetError
from openset_distill.core.files import read_json, write_json

NAMES = ("resnet18_64", "resnet18_32", "mobilenet_v2_32", "small_32")
METHODS = ("cross entropy", "CutMix")
TOGETHER = (1, 2, 4, 8)
PRECISIONS = ("bfloat16", "float32", "bfloat16 as CUDA graphs")
IMAGES, EPOCHS = 6400, 3


class Busy:
    """Samples NVML's utilisation of the first visible GPU, in percent, until it is stopped."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        import pynvml

        try:
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(0).uuid)
            handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
            while not self._stop.wait(0.2):
                self.samples.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except (pynvml.NVMLError, RuntimeError, AssertionError):
            return  # a slice of a GPU, or none: the column stays empty

    def percent(self) -> float | None:
        """The median of the second half: the first is start-up."""
        self._stop.set()
        self._thread.join()
        half = self.samples[len(self.samples) // 2 :]
        return statistics.median(half) if half else None


def measure(case: Case, method: str, precision: str, count: int, files: dict[str, Path], epochs: int) -> dict[str, Any]:
    """`count` trainings side by side."""
    settings = job(case, method, epochs)
    precision, _, graphs = precision.partition(" ")
    settings["optimization"] |= {"precision": precision, "compile": "reduce-overhead" if graphs else False}
    inputs = [word for name in ("prepared", "split", "description") for word in (f"--{name}", files[name])]
    engine = python(REPOSITORY / "benchmarks" / "engine.py", "--job", json.dumps(settings), *inputs, "--threads", 1)
    busy = Busy()
    results = together([engine] * count, 1)
    return {
        "images_a_second": round(rate(results), 1),
        "busy_percent": busy.percent(),
        "gpu_peak_mib": max(result["gpu_peak_mib"] for result in results),
        "first_step_seconds": round(max(result["first_step"] - result["began"] for result in results), 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=positive, default=9, help="begin nothing new after so many")
    parser.add_argument("--json", type=Path, default=REPOSITORY / "docs" / "benchmarks" / "gpu.json")
    parser.add_argument("--try-on-cpu", action="store_true", help="two small rows without a GPU, to try this command")
    arguments = parser.parse_args()
    if not torch.cuda.is_available() and not arguments.try_on_cpu:
        raise OpenSetError("no GPU that PyTorch can use; this benchmark measures nothing else")
    started, rows = (
        time.monotonic(),
        # a compiler has other cores to itself only where one training runs
        [
            (n, m, p, k)
            for p in PRECISIONS
            for n in NAMES
            for m in METHODS
            for k in (TOGETHER if " " not in p else (1,))
        ],
    )
    images, epochs = IMAGES, EPOCHS
    if arguments.try_on_cpu:
        os.environ["OPENSET_DEVICE"] = "cpu"
        rows, images, epochs = [("digits_8", "CutMix", "float32", k) for k in (1, 2)], 256, 2
    found = read_json(arguments.json) if arguments.json.exists() else {"rows": {}}
    described = machine("torch", "timm")
    if found["rows"] and found["machine"]["gpus"] != described["gpus"]:
        raise OpenSetError(
            f"{arguments.json} was measured on {found['machine']['gpus']}; name another file with --json"
        )
    found["machine"] = described
    missing = [row for row in rows if ", ".join(map(str, row)) not in found["rows"]]
    with tempfile.TemporaryDirectory() as folder:
        made: dict[int, dict[str, Path]] = {}
        for done, (name, method, precision, count) in enumerate(missing):
            if time.monotonic() - started > 60 * arguments.minutes:
                print(f"{len(missing) - done} of {len(rows)} rows are left; run the same command again")
                return 3
            case = replace(CASES[name], images=images)
            if case.size not in made:
                made[case.size] = synthetic(Path(folder) / str(case.size), case.size, images)
            key = f"{name}, {method}, {precision}, {count}"
            found["rows"][key] = measure(case, method, precision, count, made[case.size], epochs)
            write_json(arguments.json, found)
            print(key, found["rows"][key], flush=True)
    print(
        f"all {len(rows)} rows are in {arguments.json}; `python benchmarks/report.py` puts them into docs/benchmarks.md"
    )
    return 0


if __name__ == "__main__":
    run(main)

"""What a training left behind, and how it failed."""

from __future__ import annotations

import csv
import subprocess
import time
from pathlib import Path

import torch

from openset_distill.models.checkpoint import load_tensors

OUTPUTS = {"weights.safetensors", "history.csv", "outputs.npz", "config.json", "provenance.json"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(folder / "weights.safetensors")[0]


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def history(folder: Path) -> list[dict[str, str]]:
    with open(folder / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)


def fails(process: subprocess.CompletedProcess[str], folder: Path, *words: str) -> None:
    """The command ended with one clear error and left no output."""
    assert process.returncode == 2, process.stderr
    error = process.stderr.strip().splitlines()[-1]
    assert error.startswith("error: ") and all(word in error for word in words), process.stderr
    assert "Traceback" not in process.stderr
    assert not folder.exists() or not OUTPUTS & {path.name for path in folder.iterdir()}

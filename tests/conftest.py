"""What the tests share: the embedded digits, prepared and split once, and small networks trained on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SCRIPTS = REPOSITORY / "workflow_scripts"

# one thread a test process: two of them share two cores, and sums of floats stay the same everywhere
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Where OPENSET_REQUIRE_MIRROR (or _SLURM) is set, a test on real data (or on a cluster) that skips has failed."""
    report = yield
    for marker, variable in (("real_data", "OPENSET_REQUIRE_MIRROR"), ("slurm", "OPENSET_REQUIRE_SLURM")):
        if report.skipped and marker in item.keywords and os.environ.get(variable):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} skipped, but {variable} is set: {report.longrepr}"
    return report


@pytest.fixture
def in_repository(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory is the repository's root, as for the workflow."""
    monkeypatch.chdir(REPOSITORY)
    return REPOSITORY


def script(name: str, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """Runs one of the workflow's commands as a process of its own, from the repository's root."""
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120, **options)


def succeed(process: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The process, which must have ended well."""
    assert process.returncode == 0, process.stderr
    return process


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared digits, as the workflow's own command makes them."""
    folder = tmp_path_factory.mktemp("prepared") / "digits" / "8x1"
    outputs = [
        part
        for name in ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "manifest.json")
        for part in (f"--{name.split('.')[0].replace('_', '-')}", folder / name)
    ]
    succeed(script("prepare.py", "--dataset", "digits", "--size", 8, "--channels", 1, *outputs))
    return folder


@pytest.fixture(scope="session")
def split(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with split 0, seed 0 of the digits: split.npz and split.json."""
    folder = tmp_path_factory.mktemp("split")
    succeed(make_split(digits, folder))
    return folder


def make_split(prepared: Path, folder: Path, number: int = 0) -> subprocess.CompletedProcess[str]:
    files = ["--arrays", folder / "split.npz", "--description", folder / "split.json"]
    return script("split.py", "--prepared", prepared, "--protocol", "mnist", "--split", number, "--seed", 0, *files)


def job(run: str = "ce", **changes) -> dict:
    """Resolved settings of a run of the digits experiment, made small: 3 epochs, narrow networks."""
    from openset_distill.experiment import load

    small = {
        "defaults": {
            "backbone": {"name": "small_resnet", "widths": [4, 8]},
            "optimization": {"epochs": 3, "warmup_epochs": 1},
        },
        "runs": {"teacher": {"backbone": {"name": "small_resnet", "widths": [6, 8]}}},
    }
    experiment = load(small, stands_alone=False, default=REPOSITORY / "config" / "config.yaml")
    return experiment.training_job(run, 0, 0) | changes


def train(
    folder: Path, settings: dict, prepared: Path, split: Path, *more: object, **options
) -> subprocess.CompletedProcess[str]:
    """Runs the training command; its outputs go to `folder`."""
    names = {
        "weights": "weights.safetensors",
        "history": "history.csv",
        "outputs": "outputs.npz",
        "config": "config.json",
        "provenance": "provenance.json",
    }
    outputs = [part for option, name in names.items() for part in (f"--{option}", folder / name)]
    inputs = ["--prepared", prepared, "--split", split / "split.npz", "--description", split / "split.json"]
    return script("train.py", "--job", json.dumps(settings), *inputs, *outputs, *more, **options)


@pytest.fixture(scope="session")
def teacher(digits: Path, split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained teacher of split 0."""
    folder = tmp_path_factory.mktemp("teacher")
    succeed(train(folder, job("teacher"), digits, split))
    return folder

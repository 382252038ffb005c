"""What the tests share: the embedded digits, prepared and split once, and a small network trained on them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import REPOSITORY, job, make_split, script, succeed, train


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
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


@pytest.fixture(scope="session")
def teacher(digits: Path, split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained teacher of split 0."""
    folder = tmp_path_factory.mktemp("teacher")
    succeed(train(folder, job("teacher"), digits, split))
    return folder

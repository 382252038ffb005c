"""A training that is killed at any moment, or finds the disk full: no half-written file counts, nothing piles up."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import REPOSITORY, SCRIPTS, job, succeed, train

from openset_distill.models.checkpoint import load_tensors

pytestmark = pytest.mark.stories

FILES = ("weights.safetensors", "history.csv", "outputs.npz", "config.json", "provenance.json")
MEGABYTE = 1 << 20


def settings(run: str = "cutmix") -> dict:
    """A training that saves its state after every step: it spends more time in writing than in anything else."""
    made = job(run)
    made["backbone"] |= {"widths": [64, 128]}
    made["optimization"] |= {"epochs": 20, "checkpoint_minutes": 1e-9, "select": "best_validation_accuracy"}
    return made


def command(folder: Path, described: dict, prepared: Path, split: Path) -> list[str]:
    outputs = [part for name in FILES for part in (f"--{name.split('.')[0]}", folder / name)]
    inputs = ["--prepared", prepared, "--split", split / "split.npz", "--description", split / "split.json"]
    return [sys.executable, *map(str, [SCRIPTS / "train.py", "--job", json.dumps(described), *inputs, *outputs])]


def partials(folder: Path) -> list[Path]:
    return sorted(folder.glob(".*.partial"))


def killed_while(process: subprocess.Popen, moment: float, folder: Path, in_a_write: bool) -> bool:
    """Kills the process `moment` seconds after its first sign of life, or at the first write after that moment."""
    deadline = time.monotonic() + 120
    state = folder / "state.safetensors"
    before = state.stat().st_mtime_ns if state.exists() else None
    while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(moment)
    while in_a_write and process.poll() is None and not partials(folder):
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    return process.wait(timeout=60) == -signal.SIGKILL


def test_kill_9_at_many_moments_changes_no_bit_and_leaves_nothing_behind(digits, split, tmp_path):
    described, draws, folder = settings(), random.Random(20), tmp_path / "cut"
    position, in_writes, kills = (0, 0), 0, 0
    for number in range(14):
        process = subprocess.Popen(
            command(folder, described, digits, split), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
        )
        killed = killed_while(process, draws.uniform(0, 0.6), folder, in_a_write=number % 2 == 0)
        process.stderr.close()
        if not killed or not (folder / "state.safetensors").exists():  # the training had come to its end
            break
        kills += 1
        in_writes += bool(partials(folder))
        # the one write that this kill cut short; those of earlier kills are gone
        assert len(partials(folder)) <= 1
        _, metadata = load_tensors(folder / "state.safetensors")
        progress = json.loads(metadata["progress"])
        assert (progress["epoch"], progress["step"]) > position
        position = progress["epoch"], progress["step"]
    assert kills >= 5 and in_writes >= 3, (kills, in_writes)
    succeed(train(folder, described, digits, split))
    assert {path.name for path in folder.iterdir()} == set(FILES)

    described["optimization"]["checkpoint_minutes"] = 5
    succeed(train(tmp_path / "whole", described, digits, split))
    for name in ("weights.safetensors", "history.csv", "outputs.npz"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of four megabytes, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]).returncode:
        pytest.skip("a file system cannot be mounted here; the limit on file size below is tested instead")
    yield folder
    subprocess.run(["umount", folder], check=True)


def stopped_by_the_disk(process: subprocess.CompletedProcess[str], reason: str) -> None:
    assert process.returncode == 2, process.stderr
    error = process.stderr.strip().splitlines()[-1]
    assert error.startswith("error: cannot write") and reason in error and "free some space" in error, error
    assert "previous contents are kept" in error
    assert "Traceback" not in process.stderr


def test_a_full_disk_keeps_the_last_good_state_and_says_so(digits, split, small_disk, tmp_path):
    folder, described = small_disk / "run", settings()
    # the first state holds no best weights yet and fits; the one after the first epoch does not
    filler = small_disk / "filler"
    filler.write_bytes(bytes(MEGABYTE // 8))
    stopped_by_the_disk(train(folder, described, digits, split), "No space left on device")
    assert [path.name for path in folder.iterdir()] == ["state.safetensors"]
    load_tensors(folder / "state.safetensors")

    larger = tmp_path / "larger"
    shutil.copytree(folder, larger)
    assert "resuming from epoch" in succeed(train(larger, described, digits, split)).stderr
    succeed(train(tmp_path / "whole", described, digits, split))
    assert (larger / "weights.safetensors").read_bytes() == (tmp_path / "whole" / "weights.safetensors").read_bytes()


def test_a_limit_on_the_size_of_files_is_reported_like_a_full_disk(digits, split, tmp_path):
    described, folder = settings(), tmp_path / "run"
    described["optimization"]["epochs"] = 1
    process = subprocess.Popen(
        command(folder, described, digits, split), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (folder / "state.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (MEGABYTE // 8, MEGABYTE // 8))
    _, errors = process.communicate(timeout=60)
    stopped_by_the_disk(subprocess.CompletedProcess([], process.returncode, "", errors), "File too large")
    load_tensors(folder / "state.safetensors")

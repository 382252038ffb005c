"""Ctrl-C in a terminal: SIGINT reaches Snakemake, its shells and its jobs; trainings save, the next call resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small_repository import BIN, copy_of_the_repository, snakemake

pytestmark = pytest.mark.stories

WEIGHTS = "results/digits/split0/seed0/ce/weights.safetensors"
LOG = "results/digits/logs/split0_seed0_ce_train.log"
LONG = "runs={ce: {optimization: {epochs: 3000}}}"


def training_of(group: int, log: Path) -> int | None:
    """The process of this group that stands for a training and waits for signals, once it trains."""
    if not log.exists() or "device: " not in log.read_text():
        return None
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"workflow_scripts/train.py" not in words or os.getpgid(int(process.name)) != group:
                continue
            status = (process / "status").read_text()
        except (OSError, ValueError):
            continue
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return int(process.name)
    return None


def started(folder: Path, *command: str) -> subprocess.Popen[str]:
    """A command of the repository in `folder`, in a session of its own, which SIGINT reaches."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder / "src")}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # a shell that started the tests in the background has them ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def busy_seconds(process: subprocess.Popen[str]) -> float:
    """The processor time that a process has used."""
    assert process.poll() is None
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def interrupted(folder: Path, *snakemake: str) -> int:
    """Starts the long training through Snakemake and sends SIGINT to the whole group after some steps; its status."""
    process = started(folder, *snakemake, "--cores", "2", WEIGHTS, "--config", LONG)
    deadline = time.monotonic() + 240
    log = folder / LOG
    log.unlink(missing_ok=True)
    while training_of(process.pid, log) is None:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and "Traceback" not in output, output
    assert output.splitlines()[-1].startswith("interrupted: ") and "error" not in output, output
    assert training_of(process.pid, log) is None
    return process.returncode


def test_ctrl_c_saves_what_trains_and_the_next_call_resumes_without_unlocking(tmp_path):
    folder = copy_of_the_repository(tmp_path / "repository")
    state = folder / WEIGHTS.replace("weights", "state")
    log = folder / LOG
    interrupted(folder, "snakemake")
    assert state.exists()
    assert not (folder / WEIGHTS).exists()
    assert log.read_text().splitlines()[-1].startswith("error: stopped by a signal in epoch")
    assert interrupted(folder, sys.executable, "tools/start.py") == 130
    assert "resuming from epoch" in log.read_text()


@pytest.mark.parametrize(
    "moment", ["", "Building DAG", "total  ", "[", "training cutmix"], ids=["imports", "plan", "counts", "jobs", "job"]
)
def test_ctrl_c_at_any_moment_of_a_dry_run_ends_in_one_line(tmp_path, moment):
    folder = copy_of_the_repository(tmp_path / "repository")
    process = started(folder, sys.executable, "tools/start.py", "paper_figures", "--dry-run", "--quiet", "all")
    output = ""
    if moment:
        assert process.stdout
        for line in process.stdout:
            output += line
            if moment in line:
                break
        else:
            raise AssertionError(output)
    else:
        while busy_seconds(process) < 0.4:  # of about 2: not by the clock, which runs on while others use the cores
            time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output += process.communicate(timeout=60)[0]
    assert "Traceback" not in output, output
    if process.returncode or not moment:  # with output begun, a busy machine may have seen its end
        assert process.returncode == 130, output
        assert output.splitlines()[-1].startswith("error: interrupted"), output
        assert output.count("interrupted") == 1, output


def test_a_key_that_stands_twice_in_the_named_file_is_refused(tmp_path):
    folder = copy_of_the_repository(tmp_path / "repository")
    (folder / "mine.yaml").write_text("extends: config/config.yaml\nseeds: [0]\nseeds: [1]\n")
    refused = snakemake(folder, "-n", "--configfile", "mine.yaml")
    output = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert "mine.yaml, line 3" in output
    assert "'seeds' stands twice" in output
    assert "Traceback" not in output

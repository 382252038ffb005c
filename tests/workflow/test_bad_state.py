"""What a killed job, a wrong clock, a lost remote or a read-only checkout leave: a message that says what helps."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from commands import REPOSITORY
from small_repository import BIN, copy_of_the_repository, dvc_repository, run, snakemake

pytestmark = pytest.mark.stories


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One figure of the small experiment, made and recorded by DVC."""
    folder = dvc_repository(copy_of_the_repository(tmp_path_factory.mktemp("bad") / "repository"))
    process = snakemake(folder, "paper_figures")
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


def doctor(folder: Path) -> str:
    """What the doctor found; empty where nothing is in the way."""
    process = run(folder, "python", "tools/doctor.py")
    assert process.returncode in (0, 2) and "Traceback" not in process.stderr, process.stderr
    return process.stderr


def test_nothing_is_wrong_with_a_finished_experiment(copy):
    assert doctor(copy) == ""


def test_locks_of_dead_processes_and_half_written_files(copy):
    path = copy / "config" / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["runs"]["ce"]["optimization"] = {"epochs": 400, "checkpoint_minutes": 1e-9}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(copy / "src")}
    process = subprocess.Popen(
        ["dvc", "repro", "runs"],
        cwd=copy,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    state, deadline = copy / "results/digits/split0/seed0/ce/state.safetensors", time.monotonic() + 120
    while not state.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert f"process {process.pid}" not in doctor(copy)
    assert "runs Snakemake here" in doctor(copy)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)

    # DVC itself sees that the holder of its lock is dead; Snakemake, which it starts, names the remedy
    refused = run(copy, "dvc", "repro", "runs")
    assert refused.returncode != 0
    assert "--unlock" in refused.stdout + refused.stderr
    refused = run(copy, sys.executable, "tools/start.py", "--cores", "1", "two_sides")
    assert refused.returncode != 0
    last = (refused.stdout + refused.stderr).splitlines()[-1]
    assert last.startswith("error: a process that held Snakemake's lock is dead: `snakemake --unlock`")
    found = doctor(copy)
    assert "`snakemake --unlock`" in found
    assert "resumes" in found
    assert str(state.relative_to(copy)) in found
    assert snakemake(copy, "--unlock").returncode == 0
    settings["runs"]["ce"]["optimization"] = {"epochs": 3}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    again = run(copy, "dvc", "repro")
    assert again.returncode == 0, again.stdout + again.stderr
    assert doctor(copy) == ""
    assert json.loads(state.with_name("config.json").read_text())["optimization"]["epochs"] == 3


# a training has the lock of its folder
TRAINS = """import fcntl, os, pathlib, time
fcntl.flock(os.open("results/a", os.O_RDONLY), fcntl.LOCK_EX)
pathlib.Path("trains").touch()
time.sleep(60)
"""
STARTS = """import subprocess, sys
subprocess.run(["bash", "-c", "python workflow_scripts/train.py --weights results/a/weights.safetensors; true"])
"""


def test_a_workflow_that_make_started_is_alive(tmp_path):
    """Its command line is `python tools/start.py`, without the word snakemake."""
    folder = tmp_path / "here"
    for name, text in (
        ("tools/start.py", STARTS),
        ("workflow_scripts/train.py", TRAINS),
        ("results/a/state.safetensors", ""),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / ".snakemake" / "locks").mkdir(parents=True)
    (folder / ".snakemake" / "locks" / "0.output.lock").write_text("")
    process = subprocess.Popen([sys.executable, "tools/start.py"], cwd=folder, start_new_session=True)
    command = [sys.executable, str(REPOSITORY / "tools" / "doctor.py")]

    def found() -> str:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60).stderr

    try:
        deadline = time.monotonic() + 30
        while not (folder / "trains").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        text = found()
        assert f"process {process.pid} runs Snakemake here: wait for it" in text
        assert "is gone" not in text
        assert "state.safetensors" not in text
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)
    text = found()
    assert "a process that held Snakemake's lock is dead" in text
    assert "state.safetensors is the saved state of a stopped job" in text


def test_a_file_from_the_future(copy):
    script = copy / "workflow_scripts" / "figure.py"
    script.write_text(script.read_text() + "# changed\n")
    ahead = time.time() + 7200
    os.utime(script, (ahead, ahead))
    refused = snakemake(copy, "two_sides")
    output = refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert "clock skew" in output
    assert "make doctor" in output
    found = doctor(copy)
    assert "workflow_scripts/figure.py is 120 minutes in the future" in found
    assert "touch" in found
    script.touch()
    assert snakemake(copy, "two_sides").returncode == 0


@pytest.mark.parametrize("address", ["nowhere", "http://127.0.0.1:9/store", "ssh://127.0.0.1:9/store", "s3://bucket/x"])
def test_a_remote_that_does_not_answer(copy, address):
    assert run(copy, "dvc", "remote", "add", "--default", "store", address).returncode == 0
    if address.startswith("s3"):
        assert run(copy, "dvc", "remote", "modify", "store", "endpointurl", "http://127.0.0.1:9").returncode == 0
    found = doctor(copy)
    shown = copy / "nowhere" if address == "nowhere" else address
    assert f"remote store ({shown}) cannot be reached" in found, found
    assert "does not exist" in found or "refused" in found
    assert "dvc remote list" in found


def test_a_checkout_that_is_only_read(copy, tmp_path):
    here = tmp_path / "read_only"
    here.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", copy, here]).returncode:
        pytest.skip("a folder cannot be mounted read-only here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", here], check=True)
        refused = snakemake(here, "two_sides")
        output = refused.stdout + refused.stderr
        assert refused.returncode != 0 and "cannot be written; clone the repository" in output, output
        assert "Traceback" not in output
        assert f"{here} cannot be written" in doctor(here)
    finally:
        subprocess.run(["umount", here], check=True)

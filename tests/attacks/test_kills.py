"""A whole small workflow, ended thirty times at random moments: the same command resumes, to the same bytes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml
from small_repository import BIN, copy_of_the_repository, run

pytestmark = pytest.mark.attacks
KILLS, ROUNDS = 30, 60
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
COMMAND = ("snakemake", "--cores", "2", "--quiet", "rules", "--", "two_sides")
# what holds times, machines or progress; everything else must be the same
DIFFERENT = ("provenance.json", ".log", ".tsv")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One split, four runs, one figure; a training saves its state after every step."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("kills") / "repository")
    path = folder / "config" / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["protocol"]["splits"] = [0]
    settings["show"]["figures"] = ["two_sides"]
    settings["defaults"]["optimization"] |= {"epochs": 4, "checkpoint_minutes": 1e-9}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder


def results(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in (folder / "results").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if not path.name.endswith(DIFFERENT)}


def ended(folder: Path, number: signal.Signals, moment: float) -> bool | None:
    """Starts the workflow and ends it after `moment` seconds. None: it was done before; else whether it was told to."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder / "src")}
    process = subprocess.Popen(
        COMMAND, cwd=folder, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        # a shell that started the tests in the background has them ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        _, errors = process.communicate(timeout=moment)
        assert process.returncode == 0, errors.decode()[-3000:]
        return None
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, number)
    try:
        process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        living = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        words = "\n".join(f"{one.pid} {one.status()} {' '.join(one.cmdline())[:300]}" for one in living)
        pytest.fail(f"the workflow does not end after {number.name} at {moment:.2f} s:\n{words}")
    finally:
        # jobs of a killed workflow live on; a machine that fails takes them too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return True


def test_thirty_kills_change_no_byte(repository, tmp_path, record_property):
    whole = shutil.copytree(repository, tmp_path / "whole", symlinks=True)
    process = run(whole, *COMMAND)
    assert process.returncode == 0, process.stderr[-3000:]
    expected = results(whole)
    assert any(name.endswith("two_sides.png") for name in expected)

    draws, kills, finished = random.Random(30), 0, 0
    for _ in range(ROUNDS):
        if kills == KILLS:
            break
        if ended(repository, SIGNALS[kills % 3], draws.uniform(2.5, 7)) is None:
            finished += 1
            assert results(repository) == expected
            shutil.rmtree(repository / "results")
            continue
        kills += 1
        if (repository / ".snakemake" / "locks").is_dir():
            assert run(repository, "snakemake", "--unlock").returncode == 0
    assert kills == KILLS, f"only {kills} kills, {finished} runs came to their end"
    last = run(repository, *COMMAND)
    assert last.returncode == 0, last.stderr[-3000:]
    found = results(repository)
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    record_property("kills", kills)

"""The commit of a result: of this very checkout, with everything that differs from it, or the reason why not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from openset_distill.core import provenance
from openset_distill.core.provenance import Provenance, code_state


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "a.py").write_text("a = 1\n")
    (folder / ".gitignore").write_text("ignored*\nresults\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    return folder


def test_a_clean_checkout(checkout):
    (checkout / "results").mkdir()
    (checkout / "results" / "x.py").write_text("")
    (checkout / "notes.txt").write_text("")
    assert code_state(checkout) == provenance.Code(git(checkout, "rev-parse", "HEAD"))


@pytest.mark.parametrize("name", ["src/new.py", "src/ignored.py", "src/b.so", "rules/x.smk", "src/ü\n.py"])
def test_a_module_that_the_commit_lacks_counts_as_a_change(checkout, name):
    path = checkout / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    state = code_state(checkout)
    assert state.commit.endswith("-dirty")
    assert state.changed == (name.replace("\n", "\\n"),)


def test_changed_staged_and_hidden_files_count(checkout):
    (checkout / "src" / "a.py").write_text("a = 2\n")
    assert code_state(checkout).changed == ("src/a.py",)
    git(checkout, "add", "-A")
    assert code_state(checkout).changed == ("src/a.py",)
    git(checkout, "commit", "-qm", "second")
    git(checkout, "update-index", "--assume-unchanged", "src/a.py")
    (checkout / "src" / "a.py").write_text("a = 3\n")
    assert code_state(checkout).commit.endswith("-dirty")


def test_the_commit_of_a_repository_around_it_is_not_taken(checkout):
    inner = checkout / "vendored"
    (inner / "src").mkdir(parents=True)
    state = code_state(inner)
    assert state.commit is None
    assert "no checkout of its own" in state.unknown
    assert str(checkout) in state.unknown


def test_variables_of_git_do_not_lead_elsewhere(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    assert code_state(tmp_path).commit is None


def test_no_repository_no_commit_and_no_git(tmp_path, monkeypatch):
    assert "is not a git repository" in code_state(tmp_path).unknown
    git(tmp_path, "init", "-q")
    assert "has no commit yet" in code_state(tmp_path).unknown
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git is not installed" in code_state(tmp_path).unknown


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_checkout_of_another_user(checkout, monkeypatch):
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 65534, 65534)
    monkeypatch.setenv("HOME", str(checkout.parent))
    state = code_state(checkout)
    assert state.commit is None
    assert "belongs to another user" in state.unknown
    assert "safe.directory" in state.unknown


def test_a_shallow_clone_knows_its_commit(checkout, tmp_path):
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{checkout}", "shallow")
    assert code_state(tmp_path / "shallow").commit == git(checkout, "rev-parse", "HEAD")


def test_the_reason_is_recorded_and_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(provenance, "code_state", lambda: code_state(tmp_path))
    record = Provenance([]).record()
    assert record["git_commit"] is None
    assert "not a git repository" in record["git_unknown"]
    assert capsys.readouterr().err.count("warning: the commit of this code is unknown") == 1


def test_the_energy_of_a_gpu_is_that_of_the_chosen_one(monkeypatch, tmp_path):
    import pynvml

    counters = {"GPU-aa": 1_000, "GPU-bb": 70_000}
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)

    def handle(uuid: str) -> str:
        if uuid not in counters:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
        return uuid

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", handle)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", counters.__getitem__)
    monkeypatch.setattr(provenance, "gpu", lambda: {"uuid": "bb"})
    energy = provenance.Energy(tmp_path)
    counters.update({"GPU-aa": 900_000, "GPU-bb": 72_500})
    assert energy.joules()["gpus"] == 2.5
    # a driver that does not tell, of this GPU alone
    del counters["GPU-bb"]
    assert energy.joules()["gpus"] is None


def test_a_job_without_a_gpu_names_none(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    record = Provenance([]).record()
    assert (record["gpus"], record["gpu"], record["slurm_job"]) == ([], None, "17")
    assert 1 <= record["cores_allocated"] <= record["cores"]

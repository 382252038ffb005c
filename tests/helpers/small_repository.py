"""A copy of the repository whose default experiment is small: two splits, four runs, two epochs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from commands import REPOSITORY

SOURCES = (
    "Snakefile", "rules", "workflow_scripts", "tools", "config", "profiles", "src", "environment.yml", "pyproject.toml",
    "requirements.lock", "LICENSE", "CITATION.cff", "README.md",
)  # fmt: skip
BIN = Path(sys.executable).parent

# two splits, four runs, two epochs: every rule runs, in seconds
SMALL = {
    "protocol": {"splits": [0, 1]},
    "defaults": {
        "backbone": {"name": "small_resnet", "widths": [4, 8]},
        "optimization": {"epochs": 2, "warmup_epochs": 1},
    },
    "evaluation": {"bootstrap": 20},
    "analysis": {"lam_steps": 3, "mixing_samples": 60, "embedding_samples": 60},
    "show": {"asymmetric": ["ad_as_released"], "ablation": ["kd_mixed", "ad_as_released"]},
}
LEFT_OUT = (
    "ssa_none", "ssa_randaugment", "ssa_cutout", "mixup", "ad_as_described_ce", "ad_mixed_teacher", "ad_no_joint",
    "ad_no_relabel", "ad_soft",
)  # fmt: skip


def copy_of_the_repository(folder: Path) -> Path:
    """The project's files in a folder of their own, with the small experiment as its default."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)
    from openset_distill.config.loading import merge

    path = folder / "config" / "config.yaml"
    settings = merge(yaml.safe_load(path.read_text()), SMALL)
    for run in LEFT_OUT:
        del settings["runs"][run]
    settings["runs"]["teacher"] = {"label": "Teacher"}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return folder


def run(folder: Path, *command: str, timeout: float = 900, **options) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder / "src")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, **options
    )


def snakemake(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return run(folder, "snakemake", "--cores", "2", *arguments, **options)


def jobs(process: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """How many jobs of each rule Snakemake has done, or would do in a dry run."""
    assert process.returncode == 0, process.stdout + process.stderr
    lines = (process.stdout + process.stderr).splitlines()
    if "Job stats:" not in lines:
        return {}
    counts = {}
    for line in lines[lines.index("Job stats:") + 3 :]:
        if not line.strip() or line.startswith("total"):
            break
        name, count = line.split()
        counts[name] = int(count)
    return counts


def dvc_repository(folder: Path) -> Path:
    """The copy as a repository of git and DVC of its own, with its stages written."""
    shutil.copytree(REPOSITORY / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copy2(REPOSITORY / ".gitignore", folder / ".gitignore")
    commands = [
        [sys.executable, "tools/dvc_stages.py", "--write"],
        ["git", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "start"],
    ]
    for command in commands:
        process = run(folder, *command)
        assert process.returncode == 0, process.stderr
    return folder

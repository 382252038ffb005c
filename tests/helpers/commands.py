"""The workflow's commands as processes of their own, and small settings to run them with."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openset_distill.training.run_config import RunConfig

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "workflow_scripts"
FORK_SERVER = SCRIPTS / "fork_server.py"

# one thread a test process: two of them share two cores, and sums of floats stay the same everywhere
os.environ.setdefault("OMP_NUM_THREADS", "1")


def script(name: str, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """Runs one of the workflow's commands as a process of its own, from the repository's root.

    It is forked, as the workflow forks short jobs, because importing PyTorch takes longer than most of these commands.
    With `options` of `subprocess.run` it is a plain process.
    """
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    if not options:
        command[1:1] = ["-I", "-S", str(FORK_SERVER)]
        options["env"] = environment() | {fork_server().VARIABLE: servers()}
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120, **options)


def environment() -> dict[str, str]:
    """The environment of commands, in which `python` is this one. It is the same for every test: a server forks jobs of
    one environment."""
    same = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return same | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@functools.cache
def fork_server() -> Any:
    """The workflow's module that forks commands. It holds the pipes whose end is the servers' end."""
    spec = importlib.util.spec_from_file_location("fork_server", FORK_SERVER)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def servers() -> str:
    """The folder of the servers that fork commands, which end with this process."""
    return fork_server().start_servers(environment())


def succeed(process: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """The process, which must have ended well."""
    assert process.returncode == 0, process.stderr
    return process


def make_split(prepared: Path, folder: Path, number: int = 0) -> subprocess.CompletedProcess[str]:
    files = ["--arrays", folder / "split.npz", "--description", folder / "split.json"]
    return script("split.py", "--prepared", prepared, "--protocol", "mnist", "--split", number, "--seed", 0, *files)


def job(run: str = "ce", **changes) -> dict:
    """Resolved settings of a run of the digits experiment, made small: 3 epochs, narrow networks."""
    from openset_distill.config.experiment import load

    small = {
        "defaults": {
            "backbone": {"name": "small_resnet", "widths": [4, 8]},
            "optimization": {"epochs": 3, "warmup_epochs": 1},
        },
        "runs": {"teacher": {"backbone": {"name": "small_resnet", "widths": [6, 8]}}},
    }
    experiment = load(small, stands_alone=False, default=REPOSITORY / "config" / "config.yaml")
    return experiment.run_config(run, 0, 0).plain() | changes


def typed(settings: dict) -> RunConfig:
    """Settings as `job` gives them, and as tests change them, as the library's functions take them."""
    from openset_distill.training.run_config import RunConfig

    return RunConfig.model_validate(settings)


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

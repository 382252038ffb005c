"""A training on a machine without Snakemake: the workflow's commands as a list, run in pieces."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from small_repository import copy_of_the_repository, jobs, run, snakemake

pytestmark = pytest.mark.stories

METRICS = "results/digits/split0/seed0/kd_mixed/metrics.json"
LONGER = ["--config", "defaults={optimization: {epochs: 400}}"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_of_the_repository(tmp_path_factory.mktemp("steps"))
    process = run(folder, sys.executable, "tools/export_commands.py", "--steps", "steps.json", METRICS, *LONGER)
    assert process.returncode == 0, process.stderr
    return folder


def test_each_step_comes_after_those_that_make_its_inputs(planned):
    steps = json.loads((planned / "steps.json").read_text())
    assert [step["rule"] for step in steps if step["rule"].startswith("train")] == ["train_teacher", "train_student"]
    made: set[str] = set()
    for step in steps:
        assert all(file in made or (planned / file).exists() for file in step["inputs"]), step["rule"]
        made.update(step["outputs"])
    assert METRICS in made


def test_run_in_pieces_it_ends_at_the_bits_of_the_workflow_and_snakemake_takes_the_files(planned, tmp_path):
    statuses = []
    while not statuses or (statuses[-1] == 3 and len(statuses) < 20):
        # shorter than a training, so that one is cut; a busy machine needs longer pieces to get anywhere
        minutes = str(0.1 * 1.2 ** len(statuses))
        process = run(planned, sys.executable, "tools/run_commands.py", "steps.json", "--minutes", minutes)
        statuses.append(process.returncode)
    assert statuses[-1] == 0 and len(statuses) > 1, process.stdout + process.stderr
    logs = [path.read_text() for path in (planned / "results" / "digits" / "logs").glob("*.log")]
    assert any("going on from" in log for log in logs)
    assert jobs(snakemake(planned, "-n", METRICS, *LONGER)) == {}
    at_once = copy_of_the_repository(tmp_path / "at_once")
    assert snakemake(at_once, METRICS, *LONGER).returncode == 0
    weights = "results/digits/split0/seed0/kd_mixed/weights.safetensors"
    pieces, whole = load_file(planned / weights), load_file(at_once / weights)
    assert {name: tensor.tobytes() for name, tensor in pieces.items()} == {
        name: tensor.tobytes() for name, tensor in whole.items()
    }


def test_a_step_that_fails_is_named_with_its_log(planned, tmp_path):
    step = {"rule": "broken", "inputs": [], "outputs": ["nowhere/out.txt"], "logs": ["nowhere/log.txt"]}
    (tmp_path / "steps.json").write_text(json.dumps([{**step, "command": "false > nowhere/log.txt"}]))
    process = run(planned, sys.executable, "tools/run_commands.py", str(tmp_path / "steps.json"))
    assert process.returncode == 1 and "nowhere/log.txt" in process.stderr


def test_what_snakemake_cannot_plan_is_an_error(planned):
    process = run(planned, sys.executable, "tools/export_commands.py", "--steps", "no.json", "no_such_target")
    assert process.returncode == 2 and "no_such_target" in process.stderr and not (planned / "no.json").exists()

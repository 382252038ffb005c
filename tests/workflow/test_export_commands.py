"""A training on a machine without Snakemake: the workflow's commands as a list, run in pieces."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from commands import REPOSITORY
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
    assert any("resuming from" in log for log in logs)
    assert jobs(snakemake(planned, "-n", METRICS, *LONGER)) == {}
    at_once = copy_of_the_repository(tmp_path / "at_once")
    assert snakemake(at_once, METRICS, *LONGER).returncode == 0
    weights = "results/digits/split0/seed0/kd_mixed/weights.safetensors"
    pieces, whole = load_file(planned / weights), load_file(at_once / weights)
    assert {name: tensor.tobytes() for name, tensor in pieces.items()} == {
        name: tensor.tobytes() for name, tensor in whole.items()
    }


def test_a_changed_command_runs_again_with_what_hangs_on_it(planned, tmp_path):
    def steps(first: str, threads: int = 1) -> list[dict]:
        one = {"rule": "one", "inputs": [], "outputs": ["a.txt"], "logs": [], "command": f"echo {first} > a.txt"}
        two = {"rule": "two", "inputs": ["a.txt"], "outputs": ["b.txt"], "logs": []}
        command = f"cat a.txt > b.txt; echo made --threads {threads} >> b.log"
        apart = {"rule": "three", "inputs": [], "outputs": ["c.txt"], "logs": [], "command": "echo c >> c.txt"}
        return [one, {**two, "command": command}, apart]

    def called(*given, minutes: str = "9"):
        (tmp_path / "steps.json").write_text(json.dumps(steps(*given)))
        command = [sys.executable, str(planned / "tools" / "run_commands.py"), "steps.json", "--minutes", minutes]
        return run(tmp_path, *command)

    assert called("x").stdout.endswith("all 3 steps are done\n")
    assert called("x", 8).stdout == "all 3 steps are done\n", "how many threads says nothing about the outputs"
    again = called("y", 8).stdout
    assert again.splitlines()[:-1] == [
        "1/3 one: a.txt again, because its command has changed",
        "2/3 two: b.txt again, because its command has changed",
    ]
    assert (tmp_path / "b.txt").read_text() == "y\n"
    assert (tmp_path / "c.txt").read_text() == "c\n"
    # only half of it was done again before the time was over: the rest is still known to be old
    assert called("z", minutes="0").returncode == 3
    assert "2/3 two: b.txt again" in called("z").stdout
    assert (tmp_path / "b.txt").read_text() == "z\n"
    (tmp_path / ".run_commands.json").unlink()  # copied from elsewhere: nobody knows by what they were made
    assert "the outputs of 3 already existed and were accepted as they are" in called("w").stdout
    (tmp_path / ".run_commands.json").write_text("[")
    assert called("w").returncode == 2


def meeting(name: str, other: str, inputs: tuple[str, ...] = ()) -> dict:
    """A step that ends when another one runs too."""
    wait = f"for _ in $(seq 600); do [ -e {other}.begun ] && break; sleep 0.1; done; [ -e {other}.begun ]"
    command = f"touch {name}.begun; {wait}; touch {name}.txt"
    return {"rule": name, "inputs": list(inputs), "outputs": [f"{name}.txt"], "logs": [], "command": command}


def together(folder: Path, steps: list[dict], *more: str):
    (folder / "steps.json").write_text(json.dumps(steps))
    return run(folder, sys.executable, str(REPOSITORY / "tools" / "run_commands.py"), "steps.json", *more)


def test_steps_run_side_by_side_and_none_before_what_it_reads(tmp_path):
    last = {"rule": "last", "inputs": ["a.txt", "b.txt"], "outputs": ["c.txt"], "logs": [], "command": "cp a.txt c.txt"}
    process = together(tmp_path, [meeting("a", "b"), meeting("b", "a"), last], "--together", "2")
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-2:] == ["3/3 last: c.txt", "all 3 steps are done"]


def test_of_two_steps_one_fails_and_the_other_ends_and_is_kept(tmp_path):
    fails = meeting("a", "b") | {"command": "touch a.begun; false", "logs": ["a.log"]}
    after = {"rule": "after", "inputs": [], "outputs": ["c.txt"], "logs": [], "command": "touch c.txt"}
    process = together(tmp_path, [fails, meeting("b", "a"), after], "--together", "2")
    assert process.returncode == 1
    assert "step 1 failed with status 1" in process.stderr
    assert "a.log" in process.stderr
    assert (tmp_path / "b.txt").exists()
    assert "b.txt" in json.loads((tmp_path / ".run_commands.json").read_text())


def test_when_the_time_is_over_all_are_told_to_stop(tmp_path):
    sleeps = {"inputs": [], "logs": [], "command": "sleep 60 & wait $!"}
    steps = [sleeps | {"rule": name, "outputs": [f"{name}.txt"]} for name in "abc"]
    process = together(tmp_path, steps, "--together", "2", "--minutes", "0.01", "--grace", "30")
    assert process.returncode == 3
    assert "1 of 3 steps have not started" in process.stdout
    assert together(tmp_path, steps, "--together", "0").returncode == 2


def test_steps_in_a_circle_are_an_error(tmp_path):
    process = together(tmp_path, [meeting("a", "b", ("b.txt",)), meeting("b", "a", ("a.txt",))])
    assert process.returncode == 2
    assert "wait for each other" in process.stderr


def test_a_step_that_fails_is_named_with_its_log(planned, tmp_path):
    step = {"rule": "broken", "inputs": [], "outputs": ["nowhere/out.txt"], "logs": ["nowhere/log.txt"]}
    (tmp_path / "steps.json").write_text(json.dumps([{**step, "command": "false > nowhere/log.txt"}]))
    process = run(planned, sys.executable, "tools/run_commands.py", str(tmp_path / "steps.json"))
    assert process.returncode == 1
    assert "nowhere/log.txt" in process.stderr


def test_what_snakemake_cannot_plan_is_an_error(planned):
    process = run(planned, sys.executable, "tools/export_commands.py", "--steps", "no.json", "no_such_target")
    assert process.returncode == 2
    assert "no_such_target" in process.stderr
    assert not (planned / "no.json").exists()

"""The SLURM profile on a real cluster of one node: submitting, what goes wrong there, and what is left then."""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster
import yaml
from safetensors.numpy import load_file
from small_repository import BIN, copy_of_the_repository, dvc_repository, jobs

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]

RUN = Path("results/digits/split0/seed0/ce")
LOG = Path("results/digits/logs/split0_seed0_ce_train.log")
WEIGHTS = RUN / "weights.safetensors"
ONE_GPU = "resources={train_student: {gpu: 1}}"
# long enough to be interrupted: a training of some twenty seconds
EPOCHS = 300
MOST_EPOCHS = 10_000  # more are refused; on a fast machine they take minutes too
STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if slurm_cluster.missing_programs():
        pytest.skip(slurm_cluster.how_to_install())
    folder = tmp_path_factory.mktemp("slurm")
    try:
        slurm_cluster.start(folder)
        yield folder
    finally:
        slurm_cluster.stop(folder)


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """A test that failed half-way leaves neither a workflow nor its jobs to the next one."""
    yield
    for process in STARTED:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # Snakemake cancels its jobs
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
    STARTED.clear()


def environment(cluster: Path, folder: Path, **more: str) -> dict[str, str]:
    there = slurm_cluster.environment(cluster)
    return there | {"PATH": f"{BIN}{os.pathsep}{there['PATH']}", "PYTHONPATH": str(folder / "src")} | more


def call(*arguments: str) -> list[str]:
    """The user's command, with shorter waits."""
    waits = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10"]
    return ["snakemake", "--profile", "profiles/slurm", *waits, *arguments]


class Finished:
    """A workflow that has ended: its exit status and everything it printed."""

    def __init__(self, returncode: int, output: str):
        self.returncode, self.output = returncode, output
        self.submitted = re.findall(r"SLURM jobid (\d+)", output)


def begin(cluster: Path, folder: Path, *arguments: str, site: dict | None = None, **more: str) -> subprocess.Popen[str]:
    (folder / "profiles" / "slurm" / "site.yaml").write_text(yaml.safe_dump(site or {}))
    process = subprocess.Popen(
        call(*arguments),
        cwd=folder,
        env=environment(cluster, folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    STARTED.append(process)
    return process


def finish(process: subprocess.Popen[str], timeout: float = 900) -> Finished:
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"not finished after {timeout} s: {process.communicate()[0]}") from None
    return Finished(process.returncode, output)


def run(cluster: Path, folder: Path, *arguments: str, site: dict | None = None, **more: str) -> Finished:
    return finish(begin(cluster, folder, *arguments, site=site, **more))


def longer(epochs: int = EPOCHS, *config: str, checkpoint_minutes: float = 5) -> list[str]:
    """One training of the finished workflow, to be done again at this length."""
    optimization = f"{{epochs: {epochs}, checkpoint_minutes: {checkpoint_minutes}}}"
    return ["--config", f"runs={{ce: {{optimization: {optimization}}}}}", *config, "--", str(WEIGHTS)]


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 90):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.3)
    return value


def wait_until_it_trains(folder: Path, process: subprocess.Popen[str], began: float) -> str:
    """The number of the SLURM job, once its training, begun after a time of the clock, has done an epoch."""
    log = folder / LOG
    # Snakemake removes the log of the time before
    wait_for(lambda: log.exists() and log.stat().st_mtime > began and "epoch 1/" in log.read_text(), process)
    name = next((folder / ".snakemake" / "slurm_logs" / "rule_train_student" / "0_0_ce").glob("*.log"))
    return name.stem


def states(cluster: Path, numbers: list[str], what: str = "State") -> list[str]:
    text = slurm_cluster.command(cluster, "sacct", "-nPX", "--jobs", ",".join(numbers), f"--format={what}")
    return text.splitlines()


def weights(folder: Path) -> dict[str, bytes]:
    """The bits of every tensor. The file's header may differ: its entries have no fixed order."""
    return {name: tensor.tobytes() for name, tensor in load_file(folder / WEIGHTS).items()}


@pytest.fixture(scope="module")
def first(cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = copy_of_the_repository(tmp_path_factory.mktemp("workflow"))
    finished = run(cluster, folder, "paper_figures", site={"every": {"account": slurm_cluster.ACCOUNT}})
    assert finished.returncode == 0, finished.output
    return folder, finished


@pytest.fixture
def copy(first: tuple[Path, Finished], tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(first[0], folder, symlinks=True)
    shutil.rmtree(folder / ".snakemake" / "slurm_logs", ignore_errors=True)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(first: tuple[Path, Finished], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training on this machine, without SLURM and without a break."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "copy"
    shutil.copytree(first[0], folder, symlinks=True)
    process = subprocess.run(
        ["snakemake", "--cores", "1", *longer()],
        cwd=folder,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="module")
def limited(cluster: Path, first: tuple[Path, Finished], uninterrupted: Path, tmp_path_factory) -> Iterator[list]:
    """Two trainings with a time limit of one minute, begun early because they take longest: warned, and not warned."""
    seconds = json.loads((uninterrupted / RUN / "provenance.json").read_text())["wall_seconds"]
    # SLURM looks at its clock twice a minute: the warning may come half a minute early, the end half a minute late.
    # The machine may have been several times as busy when `seconds` was taken as it is now.
    lengths = [min(max(EPOCHS, int(EPOCHS / seconds * wanted)), MOST_EPOCHS) for wanted in (110, 500)]
    options = [(["--retries", "8"], {}), (["--retries", "0"], {"save_seconds": 0})]
    begun = []
    for epochs, (arguments, site) in zip(lengths, options, strict=True):
        folder = tmp_path_factory.mktemp("limited") / "copy"
        shutil.copytree(first[0], folder, symlinks=True)
        process = begin(cluster, folder, *arguments, *longer(epochs), site={"train_student": {"runtime_min": 1} | site})
        STARTED.remove(process)
        begun.append((folder, process, epochs))
    yield begun
    for _, process, _ in begun:
        process.kill()


# ------------------------------------------------------------------------------------------------ as it should be


def test_the_workflow_runs_to_its_figures(cluster, first):
    folder, finished = first
    assert (folder / "results/digits/figures/two_sides.pdf").exists()
    assert set(states(cluster, finished.submitted)) == {"COMPLETED"}
    # downloads, gathering, figures and tables stay on the machine that submits; short steps share a job
    comments = states(cluster, finished.submitted, "Comment")
    assert len(finished.submitted) == 1 + 1 + 10 + 2 + 2 + 2 + 1 + 1 + 1
    assert "rule_evaluations_evaluate" in comments
    assert "rule_train_student_wildcards_1_0_kd_mixed" in comments
    assert not any(word in comment for comment in comments for word in ("download", "aggregate", "two_sides"))
    assert all(name.startswith("digits_") for name in states(cluster, finished.submitted, "JobName"))
    assert set(states(cluster, finished.submitted, "Account")) == {slurm_cluster.ACCOUNT}


def test_nothing_to_do_the_second_time(cluster, first):
    again = run(cluster, first[0], "paper_figures")
    assert again.returncode == 0
    assert "Nothing to be done" in again.output


def test_slurms_own_account_is_taken_where_none_is_named(cluster, copy):
    finished = run(cluster, copy, *longer(3))
    assert finished.returncode == 0 and "guess" not in finished.output.lower(), finished.output
    whose = ["sacctmgr", "-nP", "show", "user", getpass.getuser(), "format=DefaultAccount"]
    default = slurm_cluster.command(cluster, *whose).split()
    assert states(cluster, finished.submitted, "Account") == default


@pytest.mark.usefixtures("limited")
def test_dvc_submits_too(cluster, copy):
    folder = dvc_repository(copy)
    path = folder / "config" / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["runs"]["kd_mixed"]["optimization"] = {"epochs": 3}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    process = subprocess.run(
        ["dvc", "repro", "--single-item", "runs"],
        cwd=folder,
        env=environment(cluster, folder, SNAKEMAKE_PROFILE="profiles/slurm"),
        capture_output=True,
        text=True,
        timeout=400,
    )
    output = process.stdout + process.stderr
    assert process.returncode == 0, output
    numbers = re.findall(r"SLURM jobid (\d+)", output)
    # caching logits, training, measuring, of two splits; the evaluations are one job together
    assert len(numbers) == 7
    assert set(states(cluster, numbers)) == {"COMPLETED"}
    config = folder / "results/digits/split0/seed0/kd_mixed/config.json"
    assert json.loads(config.read_text())["optimization"]["epochs"] == 3


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_a_cancelled_job_is_named_and_the_next_call_goes_on_to_the_same_bits(cluster, copy, uninterrupted):
    # a GPU asked for as some sites want it; the next test asks in the usual way
    began = time.time()
    process = begin(cluster, copy, "--retries", "0", *longer(EPOCHS, ONE_GPU), site={"train_student": {"gres": "gpu"}})
    number = wait_until_it_trains(copy, process, began)
    second = run(cluster, copy, *longer())
    assert second.returncode != 0
    assert "cannot be locked" in second.output
    assert "--unlock" in second.output
    slurm_cluster.command(cluster, "scancel", number)
    stopped = finish(process)
    assert stopped.returncode != 0
    assert f"SLURM-job '{number}' failed, SLURM status is: 'CANCELLED'" in stopped.output
    assert "gres/gpu=1" in states(cluster, [number], "AllocTRES")[0]
    assert str(LOG) in stopped.output
    assert "resumes" in stopped.output
    assert f"SLURM job {number}: CANCELLED" in stopped.output
    assert f"{number}.log" in stopped.output
    again = run(cluster, copy, *longer())
    assert jobs_of(again) == {"train_student": 1}
    assert "resuming from epoch" in (copy / LOG).read_text()
    assert weights(copy) == weights(uninterrupted)


def test_too_little_memory(cluster, copy):
    stopped = run(cluster, copy, "--retries", "0", *longer(3), site={"train_student": {"memory_mb": 200}})
    assert stopped.returncode != 0
    # with cgroups SLURM's own state is OUT_OF_MEMORY; without them the job's log says it, and the last lines repeat it
    assert "exceeded memory limit" in stopped.output or "OUT_OF_MEMORY" in stopped.output, stopped.output
    assert jobs_of(run(cluster, copy, *longer(3))) == {"train_student": 1}


def test_a_time_limit(cluster, limited):
    (warned, first, _), (unwarned, second, epochs) = limited
    first, second = finish(first), finish(second)
    assert first.returncode == 0, first.output
    ended = states(cluster, first.submitted)
    assert len(ended) > 1
    assert set(ended[:-1]) == {"FAILED"}
    assert ended[-1] == "COMPLETED"
    assert "stopped by a signal" in first.output
    assert "resuming from epoch" in (warned / LOG).read_text()
    assert second.returncode != 0 and "SLURM status is: 'TIMEOUT'" in second.output, second.output
    assert "DUE TO TIME LIMIT" in second.output
    assert str(LOG) in second.output
    # it would train for minutes more: it is enough to see that it resumes, and that nothing else is done again
    assert jobs_of(run(cluster, unwarned, "-n", *longer(epochs))) == {"train_student": 1}
    again = begin(cluster, unwarned, "--retries", "0", *longer(epochs))
    log = unwarned / LOG
    wait_for(lambda: log.exists() and "resuming from epoch" in log.read_text(), again)
    slurm_cluster.cancel_jobs(cluster)
    assert finish(again).returncode != 0


def test_a_preempted_training_goes_on_by_itself_to_the_same_bits(cluster, copy, uninterrupted):
    began = time.time()
    # by the name of its type, with a dash as SLURM itself names GPUs
    process = begin(cluster, copy, *longer(EPOCHS, ONE_GPU), site={"train_student": {"gres": "gpu:a-100"}})
    number = wait_until_it_trains(copy, process, began)
    urgent = ["sbatch", "--parsable", "--partition=urgent", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 3"]
    slurm_cluster.command(cluster, *urgent)
    finished = finish(process)
    assert finished.returncode == 0, finished.output
    assert "stopped by a signal" in finished.output
    assert number in finished.submitted
    assert "gres/gpu=1" in states(cluster, [number], "AllocTRES")[0]
    assert "resuming from epoch" in (copy / LOG).read_text()
    assert weights(copy) == weights(uninterrupted)


def test_a_preempted_training_that_is_cancelled_is_found_and_goes_on(cluster, copy, uninterrupted):
    # Snakemake's plugin would wait for it for ever; two minutes of patience are shortened
    rules = copy / "rules" / "slurm.smk"
    text = rules.read_text()
    assert "slurm.Ended()" in text
    rules.write_text(text.replace("slurm.Ended()", "slurm.Ended(patience=5)"))
    began = time.time()
    process = begin(cluster, copy, *longer(EPOCHS), site={"train_student": {"partition": "spot"}})
    number = wait_until_it_trains(copy, process, began)
    urgent = ["sbatch", "--parsable", "--partition=urgent", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 3"]
    slurm_cluster.command(cluster, *urgent)
    finished = finish(process)
    assert states(cluster, [number]) == ["PREEMPTED"]
    assert f"SLURM job {number} has ended as PREEMPTED" in finished.output, finished.output
    assert finished.returncode == 0
    assert len(finished.submitted) == 2
    assert "resuming from epoch" in (copy / LOG).read_text()
    assert weights(copy) == weights(uninterrupted)


def test_trainings_share_a_gpu_where_the_site_has_shards(cluster, copy):
    both = [*longer(EPOCHS), str(WEIGHTS).replace("split0", "split1")]
    finished = run(cluster, copy, *both, site={"train_student": {"gres": "shard", "gpu": 1}})
    assert finished.returncode == 0 and len(finished.submitted) == 2, finished.output
    assert all("gres/shard=1" in asked for asked in states(cluster, finished.submitted, "AllocTRES"))
    starts, ends = (sorted(states(cluster, finished.submitted, what)) for what in ("Start", "End"))
    assert starts[-1] < ends[0]


def test_snakemake_inside_a_job_submits_jobs(cluster, copy):
    (copy / "profiles" / "slurm" / "site.yaml").write_text("{}")
    inside = shlex.join(call("--retries", "0", *longer(3)))
    options = ["--wait", "--time=20", "--mem=1000", "--cpus-per-task=1", f"--output={copy}/inside.log"]
    done = subprocess.run(
        ["sbatch", *options, f"--wrap={inside}"],
        cwd=copy,
        env=environment(cluster, copy),
        capture_output=True,
        text=True,
        timeout=600,
    )
    told = (copy / "inside.log").read_text()
    assert done.returncode == 0, done.stderr + told
    numbers = re.findall(r"SLURM jobid (\d+)", told)
    assert len(numbers) == 1
    assert states(cluster, numbers) == ["COMPLETED"]
    assert "running snakemake in a SLURM job context" in told


def test_a_node_that_goes_down_and_comes_back(cluster, copy, uninterrupted, tmp_path):
    """Two workflows lose their node: the profile's requeue continues the one, the other is told what happened."""
    without = tmp_path / "without_requeue"
    shutil.copytree(copy, without, symlinks=True)
    profile = without / "profiles" / "slurm" / "config.yaml"
    text = profile.read_text()
    assert "slurm-requeue: true" in text
    profile.write_text(text.replace("slurm-requeue: true", "slurm-no-requeue: true"))

    # a lost node gives no warning: a training resumes from the last state that it saved by its clock
    wanted, began = longer(checkpoint_minutes=0.01), time.time()
    processes = [begin(cluster, copy, *wanted), begin(cluster, without, "--retries", "0", *wanted)]
    queued, lost = (
        wait_until_it_trains(folder, process, began) for folder, process in zip((copy, without), processes, strict=True)
    )
    wait_for(lambda: all((folder / RUN / "state.safetensors").exists() for folder in (copy, without)))
    node = slurm_cluster.command(cluster, "sinfo", "--noheader", "--format=%n").split()[0]
    slurm_cluster.command(cluster, "scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    slurm_cluster.resume(cluster, node)
    wait_for(lambda: states(cluster, [queued]) == ["PENDING"])
    # SLURM lets a job wait two minutes before its next turn, in which the node clears up
    wait_for(lambda: not slurm_cluster.has_steps(queued))
    # the node reports the end of a job's processes a moment after they are gone: it would be the next turn's end, by
    # which the controller of SLURM 22.05 was seen to crash
    time.sleep(5)
    resumed = "resuming from epoch"
    wait_for(lambda: slurm_cluster.begins(cluster, queued, node) and resumed in (copy / LOG).read_text())

    stopped = finish(processes[1])
    assert stopped.returncode != 0 and f"SLURM job {lost}: NODE_FAIL" in stopped.output, stopped.output
    assert str(LOG) in stopped.output
    continued = finish(processes[0])
    assert continued.returncode == 0 and continued.submitted == [queued], continued.output
    assert weights(copy) == weights(uninterrupted)
    assert jobs_of(run(cluster, without, *wanted)) == {"train_student": 1}
    assert resumed in (without / LOG).read_text()
    assert weights(without) == weights(uninterrupted)


def test_a_limit_of_submissions_is_read_and_kept(cluster, copy):
    def limit(number: int) -> None:
        change = ["modify", "qos", "normal", "set", f"MaxSubmitJobsPerUser={number}"]
        slurm_cluster.command(cluster, "sacctmgr", "--immediate", *change)

    limit(1)
    try:
        both = [*longer(3), str(WEIGHTS).replace("split0", "split1")]
        finished = run(cluster, copy, "--retries", "0", *both)
    finally:
        limit(-1)
    assert finished.returncode == 0 and "Provided remote nodes: 1" in finished.output, finished.output
    assert len(finished.submitted) == 2
    assert "refuse" not in finished.output


# ------------------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"train_student": {"partition": "btch"}}, ["refuse train_student", "btch", "batch", "site.yaml"]),
        ({"every": {"account": "nobody"}}, ["refuse", "nobody", slurm_cluster.ACCOUNT, "site.yaml"]),
        ({"every": {"constraint": "a100"}}, ["refuse", "a100", "feature"]),
        ({"train_student": {"gpu": 8}}, ["refuse", "--gpus=8", "not available"]),
        ({"train_student": {"partition": "short"}}, ["partition short runs no job longer than 5 minutes"]),
        ({"every": {"partitoin": "batch"}}, ["site.yaml: every", "'partitoin'", "did you mean 'partition'"]),
        ({"train_studnet": {"partition": "batch"}}, ["'train_studnet'", "did you mean 'train_student'"]),
        ({"every": {"threads": 0}}, ["every.threads", "greater than or equal to 1"]),
        ({"train_student": {"extra": "--exclude=gpu-n --nice=1"}}, ["refuse", "'-n'", "number of tasks", "site.yaml"]),
        ({"train_student": {"mail": "nobody", "extra": "--no-such-option"}}, ["refuse", "no-such-option"]),
    ],
)
def test_a_mistake_about_the_site_stops_before_any_job(cluster, copy, site, words):
    stopped = run(cluster, copy, *longer(3), site=site)
    assert stopped.returncode != 0
    assert not stopped.submitted
    assert all(word in stopped.output for word in words), stopped.output
    assert "Traceback" not in stopped.output
    assert weights(copy)


def test_a_missing_site_file(cluster, copy):
    stopped = run(cluster, copy, "-n", "paper_figures", OPENSET_SITE="elsewhere.yaml")
    assert stopped.returncode != 0
    assert "elsewhere.yaml" in stopped.output
    assert "OPENSET_SITE" in stopped.output


def test_no_sbatch(copy, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "sh", "which", "env", "uname", "git"):
        (tools / name).symlink_to(shutil.which(name))
    path = f"{BIN}{os.pathsep}{tools}"
    process = subprocess.run(
        call(*longer(3)),
        cwd=copy,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(copy / "src")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    output = process.stdout + process.stderr
    assert process.returncode != 0 and "sbatch is not installed" in output and "login node" in output, output
    assert "Traceback" not in output


def jobs_of(finished: Finished) -> dict[str, int]:
    return jobs(subprocess.CompletedProcess([], finished.returncode, finished.output, ""))

"""The SLURM logic without SLURM: what jobs ask for, what is refused, and what odd or missing commands do to it."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from commands import REPOSITORY
from snakemake.jobs import GroupJob, Job
from snakemake_executor_plugin_slurm import Executor
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import get_forbidden_slurm_options
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

from openset_distill.config.settings import JobResources, ResourceSettings
from openset_distill.core.errors import SettingsError

sys.path.insert(0, str(REPOSITORY / "workflow_scripts"))
import slurm


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stand-ins for SLURM's commands: shell scripts that come first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(**scripts: str) -> None:
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)

    return make


def site(tmp_path: Path, text: dict) -> slurm.Site:
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(text))
    return slurm.read_site(path, named=False)


# ------------------------------------------------------------------------------------------- what jobs ask for


def test_own_keys_lie_on_top_of_those_of_every_job(tmp_path):
    read = site(tmp_path, {"every": {"partition": "cpu", "qos": "a"}, "train_student": {"partition": "gpu", "gpu": 2}})
    assert read.of("train_student").partition == "gpu"
    assert read.of("train_student").qos == "a"
    assert read.of("download").partition == "cpu"
    assert read.qualities == {"a"}
    assert slurm.on_site(JobResources(threads=3), read.of("train_student")) == JobResources(threads=3, gpu=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"every": {"partitoin": "x"}}, "did you mean 'partition'"),
        ({"every": {"gres": "gpu:a100:2"}}, "the number is that of `gpu`"),
        ({"every": {"gres": "'gpu'"}}, "NAME or NAME:TYPE"),
        ({"jobs": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_site_file_is_named(tmp_path, text, words):
    with pytest.raises(SettingsError, match=words):
        site(tmp_path, text)
    with pytest.raises(SettingsError, match="OPENSET_SITE"):
        slurm.read_site(tmp_path / "none.yaml", named=True)


def test_kinds_of_jobs_of_the_release_before_are_read_with_a_hint(tmp_path, capsys):
    read = site(tmp_path, {"light": {"partition": "short"}, "analyze": {"gres": "gpu:a100"}, "measure": {"threads": 2}})
    assert read.small.partition == "short"
    assert read.inference.gres == "gpu:a100"
    assert read.feature_geometry.threads == 2
    assert f"hint: {tmp_path / 'site.yaml'}: light is now called small" in capsys.readouterr().err
    with pytest.raises(SettingsError, match="light is now called small; remove light"):
        site(tmp_path, {"light": {}, "small": {}})


@pytest.mark.parametrize("gres", [None, "gpu", "gpu:a100", "gpu:nvidia_a100-sxm4-80gb", "gpu:1g.10gb", "shard"])
@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_gpus_are_asked_for_on_one_node_and_processes_do_not_depend_on_how(gres, gpus):
    job = JobResources(memory_mb=1000, gpu=gpus)
    asked = slurm.resources("train_student", job, slurm.SiteJob(gres=gres))
    options = slurm.sbatch_options(1, asked)
    assert asked["processes"] == max(1, gpus)
    assert asked["mem_mb"] == 1000 * max(1, gpus)
    assert ("--nodes=1" in options) == (gpus > 1)
    kind = (gres or "").partition(":")[2]
    if not gpus:
        expected = set()
    elif gres is None:
        expected = {f"--gpus={gpus}"}
    elif "-" in gres:
        expected = {f"--gpus-per-node={kind}:{gpus}"}
    else:
        expected = {f"--gres={gres}:{gpus}"}
    assert {option for option in options if "gpu" in option or "shard" in option} == expected
    # what the plugin makes of it: it raises an error at what it does not take
    Job = type("Job", (), {"resources": asked})
    Job.resources = type("Resources", (dict,), {"__getattr__": dict.__getitem__})(asked)
    set_gres_string(Job)


def test_how_a_training_is_launched_is_no_parameter_of_its_rule():
    text = (REPOSITORY / "rules" / "train.smk").read_text()
    assert "--processes {resources.processes}" in text
    assert "launch" not in text.partition("params:")[2]


def test_a_short_job_is_not_interrupted_before_three_quarters_of_its_time():
    job = JobResources(runtime_min=1)
    assert "--signal=TERM@15" in slurm.resources("train_teacher", job, slurm.SiteJob())["slurm_extra"]
    assert "slurm_extra" not in slurm.resources("small", job, slurm.SiteJob())
    assert "slurm_extra" not in slurm.resources("train_teacher", job, slurm.SiteJob(save_seconds=0))


def test_the_largest_job_bounds_a_group(tmp_path):
    read = site(tmp_path, {"train_student": {"threads": 8, "gpu": 4, "memory_mb": 1000}, "small": {"memory_mb": 500}})
    configured = ResourceSettings(**{kind: {"memory_mb": 500} for kind in ResourceSettings.model_fields})
    assert slurm.bounds(read, configured) == {"_cores": 8, "gpu": 4, "mem_mb": 4000}


# ----------------------------------------------------------------------------------------- what would be refused


def test_options_that_the_plugin_would_misread_are_refused_before_any_job(commands):
    commands(sbatch="exit 0", sinfo="echo 1:00:00")
    forbidden = get_forbidden_slurm_options()
    plain = slurm.sbatch_options(1, {"mem_mb": 100, "runtime": 5, "slurm_account": "a", "gpu": 2, "nodes": 1})
    assert slurm.refused(plain, forbidden) == ""
    assert slurm.refused((*plain, "--exclude=node7", "--signal=TERM@120"), forbidden) == ""
    reason = slurm.refused((*plain, "--exclude=gpu-n", "--signal=TERM@120"), forbidden)
    assert "'-n' in '--exclude=gpu-n --signal=TERM@120' is read as the number of tasks" in reason
    assert "key of its own" in slurm.refused((*plain, "--partition=x", "-p", "x"), forbidden)


def test_slurms_own_refusal_and_a_limit_of_time(commands):
    commands(sbatch="echo 'sbatch: Job 1 to start in partition short' >&2", sinfo="echo 5:00")
    assert slurm.refused(("--time=4",), {}) == ""
    assert "partition short runs no job longer than 5 minutes" in slurm.refused(("--time=6",), {})
    commands(sbatch="echo 'Invalid account' >&2; exit 1", sacctmgr="echo mine", sinfo="echo p")
    reason = slurm.refused(("--time=6",), {})
    message = slurm.refusal(("--time=6",), {"b", "a"}, reason, Path("site.yaml"))
    assert message.startswith("SLURM would refuse a, b: Invalid account")
    assert "partitions p; your accounts mine" in message


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("5:00", 5), ("1:00:00", 60), ("1-00:00:00", 1440), ("infinite", float("inf")), ("", float("inf"))],
)
def test_times_of_slurm(limit, expected):
    assert slurm.minutes(limit) == expected


# --------------------------------------------------------------------------------------- limits of submission


def test_the_limit_of_submissions_is_the_smallest_that_accounting_tells(commands):
    script = 'case "$*" in *associations*) echo "8|normal"; echo "|normal";; *"qos gold"*) echo 3;; *) echo 5;; esac'
    commands(sacctmgr=script)
    assert slurm.submit_limit([]) == 5  # of the default QOS
    assert slurm.submit_limit(["gold"]) == 3
    commands(sacctmgr='case "$*" in *associations*) echo "|";; *"qos normal"*) echo 7;; esac')
    assert slurm.submit_limit([]) == 7  # of the QOS that every cluster begins with
    commands(sacctmgr="echo '|'")
    assert slurm.submit_limit([]) is None
    commands(sacctmgr="echo 'sacctmgr: error: no database' >&2; exit 1")
    assert slurm.submit_limit(["gold"]) is None


# ------------------------------------------------------------------------------------------ no waiting for ever


def test_a_cluster_that_forgets_finished_jobs_soon_is_warned_about(commands):
    commands(scontrol="echo 'MinJobAge               = 60 sec'; echo 'PreemptMode             = CANCEL'; echo odd")
    told = slurm.configuration("MinJobAge", "PreemptMode")
    assert told == {"MinJobAge": "60 sec", "PreemptMode": "CANCEL"}
    forgets, cancels = slurm.warnings(told)
    assert "after 60 s (MinJobAge)" in forgets
    assert "second attempt" in cancels
    assert slurm.warnings({"MinJobAge": "300 sec", "PreemptMode": "REQUEUE"}) == []
    commands(scontrol="exit 1")
    assert slurm.warnings(slurm.configuration("MinJobAge", "PreemptMode")) == []
    assert [slurm.min_job_age(text) for text in ("300 sec", "2m", "1h", "", "odd")] == [300, 120, 3600, None, None]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("squeue", "sacct", "expected"),
    [
        ("echo '7|PREEMPTED'", "exit 1", "PREEMPTED"),
        ("echo '8|RUNNING'", "echo '7|CANCELLED by 1000'", "CANCELLED"),
        ("echo '8|RUNNING'", "echo '7|COMPLETED'", "COMPLETED"),
        ("true", "exit 1", ""),  # purged, and no accounting
        ("true", "echo '7|RUNNING'", ""),  # accounting was never told of its end
        ("echo '7|RUNNING'", "echo '7|PREEMPTED'", None),
        ("echo '7|PENDING'", "echo '7|PREEMPTED'", None),  # queued again
        ("echo odd; echo '7|COMPLETING'", "true", None),
        ("exit 1", "echo '7|FAILED'", None),  # a scheduler that does not answer says nothing about its jobs
    ],
)
def test_a_job_that_has_ended_is_found_within_a_bound_and_no_other(commands, squeue, sacct, expected):
    commands(squeue=squeue, sacct=sacct)
    clock = Clock()
    ended = slurm.Ended(120, clock)
    assert ended.among([]) == {}
    assert ended.among(["7"]) == {}
    clock.now = 119
    assert ended.among(["7"]) == {}
    clock.now = 120
    assert ended.among(["7"]) == ({} if expected is None else {"7": expected})


def test_a_job_between_two_turns_is_not_taken_for_ended(commands):
    clock = Clock()
    ended = slurm.Ended(120, clock)
    for now, state in ((0, "PREEMPTED"), (100, "PENDING"), (200, "NODE_FAIL"), (319, "NODE_FAIL")):
        commands(squeue=f"echo '7|{state}'")
        clock.now = now
        assert ended.among(["7"]) == {}
    clock.now = 320
    assert ended.among(["7"]) == {"7": "NODE_FAIL"}


def test_a_scheduler_that_does_not_answer_is_mentioned_every_ten_minutes(commands, capsys):
    commands(squeue="exit 1")
    clock = Clock()
    ended = slurm.Ended(120, clock)
    for clock.now in (0, 599, 600, 1199, 1200):
        assert ended.among(["7"]) == {}
    assert capsys.readouterr().err.count("squeue has failed for 10 minutes") == 2


class StandInExecutor:
    """What Snakemake's executor has: it takes every job for running."""

    def __init__(self):
        self.done, self.failed = [], []

    async def check_active_jobs(self, jobs):
        for job in jobs:
            yield job

    def report_job_success(self, job):
        self.done.append(job.external_jobid)

    def report_job_error(self, job, msg=None, aux_logs=None):
        self.failed.append((job.external_jobid, msg, aux_logs))


def test_what_has_ended_is_reported_and_waited_for_no_longer(commands, tmp_path):
    made, old = tmp_path / "made", tmp_path / "old"
    for file in (made, old):
        file.touch()
    os.utime(old, (0, 0))
    output = {"1": [made], "2": [made], "3": [old], "4": [tmp_path / "none"], "5": [made], "6": [made]}
    jobs = [
        SimpleNamespace(external_jobid=number, job=SimpleNamespace(output=files), aux={"slurm_logfile": "its.log"})
        for number, files in output.items()
    ]
    commands(squeue="echo '1|PREEMPTED'; echo '5|COMPLETED'; echo '6|RUNNING'", sacct="exit 1")
    executor = StandInExecutor()
    slurm.watch(executor, slurm.Ended(0, Clock()))

    async def one_poll():
        return [job.external_jobid async for job in executor.check_active_jobs(jobs)]

    assert asyncio.run(one_poll()) == ["6"]
    # forgotten by SLURM: its files are there, so it is not done twice; files of another time say nothing
    assert executor.done == ["2", "5"]
    assert [(number, logs) for number, _, logs in executor.failed] == [(number, ["its.log"]) for number in "134"]
    assert "SLURM job 1 has ended as PREEMPTED; its next attempt" in executor.failed[0][1]
    assert "SLURM job 3 is known neither to squeue nor to sacct any more" in executor.failed[1][1]


def test_the_executor_still_has_what_is_watched():
    assert "async for job_info in self.check_active_jobs(active_jobs)" in inspect.getsource(RemoteExecutor)
    assert "msg" in inspect.signature(Executor.report_job_error).parameters
    assert "report_job_error(j, msg=msg, aux_logs=" in inspect.getsource(Executor.check_active_jobs)
    assert 'aux.get("slurm_logfile")' in inspect.getsource(Executor.check_active_jobs)
    for kind in (Job, GroupJob):
        assert hasattr(kind, "output")


def test_the_interval_is_one_at_which_the_plugin_asks_sacct():
    source = inspect.getsource(Executor.check_active_jobs)
    # the plugin's own numbers, on which ours stand
    assert "max_sleep_time = 180" in source
    assert "dynamic_check_threshold = 3 * initial_interval" in source
    assert "init_seconds_before_status_checks" in source
    assert slurm.LONGEST_POLL_SECONDS > 180
    assert 3 * slurm.SACCT_INTERVAL_SECONDS > slurm.LONGEST_POLL_SECONDS


def test_the_plugin_still_names_its_jobs_by_the_attribute_that_is_set():
    assert "self.run_uuid" in inspect.getsource(Executor.__post_init__)
    assert '"run_uuid": self.run_uuid' in inspect.getsource(Executor.run_job)


def test_the_plugin_still_guesses_no_account_where_it_has_one():
    source = inspect.getsource(Executor.get_account_arg)
    assert "if self._fallback_account_arg is None:" in source
    assert "yield self._fallback_account_arg" in source


@pytest.mark.workflow
def test_snakemake_still_shows_its_executor(tmp_path):
    (tmp_path / "Snakefile").write_text(
        "rule all:\n    output: 'done'\n    shell: 'touch done'\n"
        "onstart:\n    print('executor:', type(workflow.scheduler._executor).__name__)\n"
    )
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "executor: Executor" in done.stdout + done.stderr, done.stderr


# ------------------------------------------------------------------------------------------------- failed jobs


def test_odd_lines_of_sacct_do_not_hide_the_error(commands, tmp_path):
    logs = tmp_path / "logs" / "rule_train"
    logs.mkdir(parents=True)
    (logs / "7.log").write_text("a\nslurmstepd: error: *** JOB 7 ON n1 CANCELLED DUE TO TIME LIMIT ***\n")
    lines = [
        "7|TIMEOUT|00:05:00|00:05:00",
        "8|COMPLETED|1|2",
        "sacct: warning: odd",
        "",
        "9|FAILED|1|2|3",
        "x|FAILED|1|2",
    ]
    commands(sacct="cat <<END\n" + "\n".join(lines) + "\nEND")
    (line,) = slurm.failed_jobs("run", tmp_path / "logs")
    assert line.startswith("SLURM job 7: TIMEOUT after 00:05:00 of 00:05:00; *** JOB 7")
    assert line.endswith("7.log")
    commands(sacct="exit 1")
    assert slurm.failed_jobs("run", tmp_path) == []


def test_a_missing_command_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.failed_jobs("run", tmp_path) == []
    assert slurm.submit_limit([]) is None
    assert slurm.configuration("MinJobAge") == {}


# ---------------------------------------------------------------------------------------- nodes without internet


@pytest.mark.workflow
def test_pretrained_weights_are_fetched_where_the_workflow_runs():
    backbone = "runs={ce: {backbone: {name: resnet18, stem: imagenet, pretrained: true}}}"
    target = "results/digits/split0/seed0/ce/weights.safetensors"
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "--forceall",
        "--cores",
        "1",
        "--config",
        backbone,
        "--",
        target,
    ]
    planned = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert re.search(r"fetch_weights +1\n", planned.stdout) and "resnet18" in planned.stdout, planned.stderr
    # a file of the user's own, and weights that a package carries, are fetched by nobody
    for other in ("resnet18, stem: imagenet, weights: own.safetensors", "efficientnet_lite0"):
        command[-3] = f"runs={{ce: {{backbone: {{name: {other}}}}}}}"
        planned = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
        assert "fetch_weights" not in planned.stdout


def test_weights_that_cannot_be_fetched_end_in_one_line(tmp_path):
    command = [sys.executable, REPOSITORY / "workflow_scripts" / "fetch_weights.py", "--model", "resnet18"]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, "--record", tmp_path / "r.json"], env=offline, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pretrained weights of resnet18" in done.stderr
    assert not (tmp_path / "r.json").exists()

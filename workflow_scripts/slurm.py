"""SLURM logic as plain functions: a site's additions to job resources, and checks before the first submission.

`rules/slurm.smk` calls them; nothing here depends on Snakemake's objects or the experiment.
"""

from __future__ import annotations

import getpass
import re
import shlex
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from openset_distill.config.renames import KINDS_OF_JOBS, with_new_names
from openset_distill.config.settings import (
    Gpus,
    JobResources,
    MemoryMb,
    ResourceSettings,
    RuntimeMin,
    Threads,
)
from openset_distill.core.errors import SettingsError
from openset_distill.core.settings import Strict, validated
from openset_distill.core.yaml_files import read_yaml

# between two questions to the scheduler the plugin lets up to 180 s pass; what `squeue` has forgotten by then it would
# take for a running job, and wait for ever
LONGEST_POLL_SECONDS = 200
# three times this is the MinJobAge below which the plugin asks `sacct` instead, which forgets nothing
SACCT_INTERVAL_SECONDS = 70
# so long a job must look ended before it is taken for ended: SLURM needs a moment between two turns of a job, and
# accounting is late
PATIENCE_SECONDS = 120
# how often a scheduler that does not answer is mentioned
SILENCE_SECONDS = 600
# states of a job that has a turn before it, or is in it
ALIVE = (
    "PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "COMPLETING", "STAGE_OUT", "SIGNALING", "RESIZING",
    "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD", "EXPEDITING",
)  # fmt: skip
ENDED_WELL = ("COMPLETED", "RUNNING", "PENDING", "COMPLETING")


def _gres(name: str) -> str:
    if not re.fullmatch(r"\w+(:[\w.-]+)?", name, re.ASCII):
        raise ValueError(f"{name!r} is not NAME or NAME:TYPE, such as gpu:a100; the number is that of `gpu`")
    return name


class SiteJob(Strict):
    """What a site asks for in one kind of job; docs/cluster.md explains each key."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: Annotated[str, AfterValidator(_gres)] | None = None
    mail: str | None = None
    extra: str | None = None
    save_seconds: Annotated[int, Field(ge=0, le=86_400)] = 120
    threads: Threads | None = None
    memory_mb: MemoryMb | None = None
    runtime_min: RuntimeMin | None = None
    gpu: Gpus | None = None


class Site(Strict):
    """The whole file: `every` job, and what differs for one kind of job. Downloads run where Snakemake runs.

    `jobs` bounds how many jobs are submitted at once.
    """

    jobs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    every: SiteJob = SiteJob()
    prepare: SiteJob = SiteJob()
    train_teacher: SiteJob = SiteJob()
    train_student: SiteJob = SiteJob()
    inference: SiteJob = SiteJob()
    feature_geometry: SiteJob = SiteJob()
    small: SiteJob = SiteJob()

    def of(self, kind: str) -> SiteJob:
        """What holds for a kind of job: its own keys, on top of those of every job."""
        own = getattr(self, kind, SiteJob())
        return self.every.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})

    @property
    def qualities(self) -> set[str]:
        """Every `qos` that the file names."""
        named = {self.of(kind).qos for kind in type(self).model_fields if kind != "jobs"}
        return {qos for qos in named if qos}


def read_site(path: Path, *, named: bool) -> Site:
    """The site's file, or SLURM's own defaults where there is none.

    Args:
        named: whether the variable OPENSET_SITE named it, so that it must exist.

    Raises:
        SettingsError: missing, unreadable, or with an unknown key or a wrong value.
    """
    if not path.exists():
        if named:
            raise SettingsError(f"the site file {path} (variable OPENSET_SITE) does not exist; correct the path")
        return Site()
    renamed = [((str(path),), old, new, {}) for old, new in KINDS_OF_JOBS.items()]
    found = with_new_names({str(path): read_yaml(path, "the site's file") or {}}, renamed)
    return validated(Site, found[str(path)], source=str(path))


def on_site(job: JobResources, at: SiteJob) -> JobResources:
    """A job's resources with what the site overrides."""
    overrides = {key: getattr(at, key) for key in type(job).model_fields}
    return job.model_copy(update={key: value for key, value in overrides.items() if value is not None})


def resources(kind: str, job: JobResources, at: SiteJob | None) -> dict[str, Any]:
    """The resources of a rule, as Snakemake and its SLURM plugin know them.

    Memory is asked for each GPU: each has a process of its own. `processes` is how many share a training, which is told
    to it from here and not in a parameter: how a training is launched is no reason to train again.

    Args:
        at: the site's part; None where jobs are not submitted.
    """
    asked: dict[str, Any] = {
        "mem_mb": job.memory_mb * max(1, job.gpu), "runtime": job.runtime_min, "gpu": job.gpu,
    }  # fmt: skip
    training = kind.startswith("train_")
    if training:
        asked["processes"] = max(1, job.gpu)
    if at is None:
        return asked
    told: dict[str, Any] = {
        "slurm_account": at.account, "slurm_partition": at.partition, "qos": at.qos, "constraint": at.constraint,
    }  # fmt: skip
    extra = [at.extra] if at.extra else []
    if at.gres and job.gpu:
        asked["gpu"] = 0
        if "-" in at.gres:
            # the plugin takes no dash in `gres`, and SLURM's own names of GPUs have them
            extra.append(f"--gpus-per-node={at.gres.partition(':')[2]}:{job.gpu}")
        else:
            told["gres"] = f"{at.gres}:{job.gpu}"
    if job.gpu > 1:
        told["nodes"] = 1  # otherwise SLURM may spread the GPUs over nodes, and one process group cannot start
    if at.mail:
        extra += [f"--mail-user={at.mail}", "--mail-type=FAIL"]
    if training and at.save_seconds:
        # a training saves its state at this signal; a short job is not interrupted before three quarters of its time
        extra.append(f"--signal=TERM@{min(at.save_seconds, 15 * job.runtime_min)}")
    told["slurm_extra"] = " ".join(extra)
    return asked | {name: value for name, value in told.items() if value}


def bounds(site: Site, configured: ResourceSettings) -> dict[str, int]:
    """Cores, GPUs and memory of the largest single job: what bounds a group of small jobs and, by its memory, what runs
    on the login node itself."""
    largest = [on_site(getattr(configured, kind), site.of(kind)) for kind in ResourceSettings.model_fields]
    small = on_site(configured.small, site.of("small"))
    return {
        "_cores": max(job.threads for job in largest),
        "gpu": max(job.gpu for job in largest),
        "mem_mb": max(2 * small.memory_mb, *(job.memory_mb * max(1, job.gpu) for job in largest)),
    }


def sbatch_options(threads: int, asked: Mapping[str, Any], members: int = 1) -> tuple[str, ...]:
    """What a job will ask SLURM for. A group of short steps asks for the sum of their times."""
    options = [f"--cpus-per-task={threads}", f"--mem={asked['mem_mb']}", f"--time={asked['runtime'] * members}"]
    names = {"slurm_account": "account", "slurm_partition": "partition", "gpu": "gpus"}
    for name in ("slurm_account", "slurm_partition", "qos", "constraint", "gpu", "gres", "nodes"):
        if asked.get(name):
            options.append(f"--{names.get(name, name)}={asked[name]}")
    return (*options, *shlex.split(asked.get("slurm_extra") or ""))


def refused(options: Sequence[str], forbidden: Mapping[str, str]) -> str:
    """Why SLURM, or the plugin that submits, would not run a job; empty if both would.

    Args:
        forbidden: patterns of options that the plugin sets itself, with their names: it also finds them inside others.
    """
    own = ("--cpus-per-task=", "--mem=", "--time=", "--account=", "--partition=", "--qos=", "--constraint=", "--gpus=")
    extra = " ".join(option for option in options if not option.startswith((*own, "--gres=", "--nodes=")))
    for pattern, name in forbidden.items():
        if found := re.search(pattern, extra):
            return (
                f"{found[0].strip()!r} in {extra!r} is read as the {name}, which has a key of its own; correct `extra` "
                "(write -option VALUE as --option=VALUE, and let no value end in a dash and a letter)"
            )
    answer = subprocess.run(["sbatch", "--test-only", *options, "--wrap=true"], capture_output=True, text=True)
    if answer.returncode:
        return answer.stderr.strip()
    # many clusters accept a job that is longer than its partition allows, and never start it
    wanted = dict(option.split("=", 1) for option in options if "=" in option)
    named = re.search(r"in partition (\S+)", answer.stderr)
    partition = wanted.get("--partition") or (named and named[1])
    if partition:
        limits = [
            minutes(limit) for limit in words_of("sinfo", "--noheader", f"--partition={partition}", "--format=%l")
        ]
        if limits and float(wanted["--time"]) > max(limits):
            return f"partition {partition} runs no job longer than {max(limits):.0f} minutes"
    return ""


def refusal(options: Sequence[str], names: Iterable[str], reason: str, site_file: Path) -> str:
    """The message for a job that would be refused: what was asked for, what there is, where to correct it."""
    partitions = ", ".join(words_of("sinfo", "--noheader", "--format=%R"))
    accounts = words_of("sacctmgr", "-nP", "list", "associations", f"user={getpass.getuser()}", "format=account")
    return (
        f"SLURM would refuse {', '.join(sorted(names))}: {reason}\n"
        f"Requested: {' '.join(options)}\n"
        f"Available: partitions {partitions or 'unknown'}; your accounts {', '.join(accounts) or 'unknown'}\n"
        f"Correct {site_file}, or `resources` of the experiment; docs/cluster.md explains the keys."
    )


def submit_limit(qualities: Iterable[str]) -> int | None:
    """How many jobs this user may have in the queue at once, by accounting; None where it does not tell.

    Args:
        qualities: names of QOS that jobs are submitted with; none is the user's default one.
    """
    user = getpass.getuser()
    association = words_of("sacctmgr", "-nP", "show", "associations", f"user={user}", "format=MaxSubmitJobs,DefaultQOS")
    limits, default = [], set()
    for line in association:
        limit, _, qos = line.partition("|")
        limits.append(limit)
        default.add(qos)
    # where an association has no default, SLURM takes the QOS that every cluster begins with
    named = sorted(set(qualities) or {*default} - {""} or {"normal"})
    if association:
        limits += words_of("sacctmgr", "-nP", "show", "qos", ",".join(named), "format=MaxSubmitJobsPU")
    numbers = [int(limit) for limit in limits if limit.isdigit()]
    return min(numbers) if numbers else None


def configuration(*names: str) -> dict[str, str]:
    """Settings of the cluster by name, as `scontrol show config` prints them; what it does not tell is missing."""
    found = {}
    for line in lines_of("scontrol", "show", "config"):
        name, _, value = line.partition("=")
        if name.strip() in names:
            found[name.strip()] = value.strip()
    return found


def min_job_age(text: str) -> int | None:
    """SLURM's MinJobAge in seconds; None where it is no number."""
    match = re.match(r"(\d+)\s*(s|m|h)?", text)
    return int(match[1]) * {"m": 60, "h": 3600}.get(match[2], 1) if match else None


def warnings(told: Mapping[str, str]) -> list[str]:
    """What of a cluster's configuration makes a workflow wait longer, a line each.

    Args:
        told: `MinJobAge` and `PreemptMode` of `configuration`.
    """
    lines, age = [], min_job_age(told.get("MinJobAge", ""))
    if age is not None and age < LONGEST_POLL_SECONDS:
        lines.append(
            f"warning: this cluster forgets a finished job after {age} s (MinJobAge), so job states come from sacct "
            f"every {SACCT_INTERVAL_SECONDS} s or more instead of from squeue"
        )
    if told.get("PreemptMode", "").upper().startswith("CANCEL"):
        lines.append(
            "warning: this cluster cancels preempted jobs (PreemptMode); a preempted training is noticed within "
            "minutes, and its second attempt resumes it"
        )
    return lines


class Ended:
    """Jobs that have ended, and that Snakemake's plugin takes for running ones: it knows no PREEMPTED, and of a job
    that the scheduler has forgotten it learns nothing.

    Args:
        patience: seconds for which a job must look ended.
        clock: seconds that grow.
    """

    def __init__(self, patience: float = PATIENCE_SECONDS, clock: Callable[[], float] = time.monotonic):
        self.patience, self.clock = patience, clock
        self._since: dict[str, float] = {}
        self._silent: float | None = None

    def among(self, numbers: Iterable[str]) -> dict[str, str]:
        """The jobs that have ended, with the state that SLURM told last, or `` where it knows them no more.

        A scheduler that does not answer says nothing about its jobs: they are waited for, with a line now and then.
        """
        numbers, now = list(numbers), self.clock()
        if not numbers:
            return {}
        user = getpass.getuser()
        lines = answer_of("squeue", f"--user={user}", "--noheader", "--states=all", "--format=%i|%T")
        if lines is None:
            self._silence(now)
            return {}
        self._silent = None
        told = dict(line.strip().split("|", 1) for line in lines if "|" in line)
        suspects = {number: told.get(number, "") for number in numbers if told.get(number) not in ALIVE}
        for number, state in _accounted([number for number, state in suspects.items() if not state]).items():
            suspects[number] = state
        # what accounting believes to run and the scheduler does not know has been lost
        suspects = {number: "" if state in ALIVE else state for number, state in suspects.items()}
        self._since = {number: self._since.get(number, now) for number in suspects}
        return {number: state for number, state in suspects.items() if now - self._since[number] >= self.patience}

    def _silence(self, now: float) -> None:
        if self._silent is None:
            self._silent = now
        elif now - self._silent >= SILENCE_SECONDS:
            print(
                f"warning: squeue has failed for {SILENCE_SECONDS // 60} minutes; submitted jobs continue, and the "
                "workflow waits for them. After Ctrl-C the same command resumes",
                file=sys.stderr,
            )
            self._silent = now


def _accounted(numbers: Sequence[str]) -> dict[str, str]:
    """The states that accounting has of jobs, without what follows the first word (`CANCELLED by 1000`)."""
    if not numbers:
        return {}
    lines = lines_of("sacct", "-nPX", f"--jobs={','.join(numbers)}", "--format=JobIDRaw,State")
    return {number: words.split()[0] for number, _, words in (line.partition("|") for line in lines) if words.split()}


def watch(executor: Any, ended: Ended) -> None:
    """Lets an executor of Snakemake ask `ended` about each job that it takes for running.

    What has ended is reported: a COMPLETED job as done, as is one that SLURM has forgotten and whose files are there;
    any other as failed, in one line, and `retries` starts it again.

    Args:
        executor: has `check_active_jobs`, an asynchronous generator of the jobs that still run, `report_job_success`
            and `report_job_error`.
    """
    check = executor.check_active_jobs
    begun: dict[str, float] = {}

    async def checked(jobs: list[Any]) -> AsyncIterator[Any]:
        for job in jobs:
            begun.setdefault(job.external_jobid, time.time())
        running = [job async for job in check(jobs)]
        found = ended.among(job.external_jobid for job in running)
        for job in running:
            number = job.external_jobid
            state = found.get(number)
            if state is None:
                yield job
            elif state == "COMPLETED" or (not state and _made_since(begun[number], job.job.output)):
                executor.report_job_success(job)
            else:
                what = f"has ended as {state}" if state else "is known neither to squeue nor to sacct any more"
                log = job.aux.get("slurm_logfile")
                executor.report_job_error(
                    job,
                    msg=f"SLURM job {number} {what}; its next attempt, or the same command, resumes it. ",
                    aux_logs=[str(log)] if log else [],
                )

    executor.check_active_jobs = checked


def _made_since(begun: float, files: Iterable[str]) -> bool:
    """Whether all files were written since a time, give or take the clock of another machine."""
    try:
        written = [Path(file).stat().st_mtime for file in files]
    except OSError:
        return False
    return bool(written) and min(written) > begun - 60


def failed_jobs(run: str, logs: Path) -> list[str]:
    """SLURM's own words on every job of a call that ended badly, and where its log is; none where sacct does not tell.

    Args:
        run: the name that all jobs of the call share.
        logs: the folder of SLURM's logs.
    """
    told = []
    fields = "--format=JobIDRaw,State,Elapsed,Timelimit"
    for line in lines_of("sacct", "-nPX", "--starttime=now-30days", f"--name={run}", fields):
        parts = line.split("|")
        if len(parts) != 4 or not parts[0].isdigit() or parts[1] in ENDED_WELL:
            continue
        number, state, elapsed, limit = parts
        words = [f"SLURM job {number}: {state} after {elapsed} of {limit}"]
        for log in logs.rglob(f"{number}.log"):
            # what the node's daemon wrote between the lines of the job: memory, cancellation, time
            said = re.findall(r"^slurmstepd.*?: error: (.*)$", log.read_text(errors="replace"), re.MULTILINE)
            words += [*said[:1], f"log: {log}"]
        told.append("; ".join(words))
    return told


def minutes(limit: str) -> float:
    """SLURM's [days-]hours:minutes:seconds as minutes; infinite where it is no time."""
    days, _, clock = limit.rpartition("-")
    try:
        seconds = sum(int(part) * 60**power for power, part in enumerate(reversed(clock.split(":"))))
        return int(days or 0) * 1440 + seconds / 60
    except ValueError:
        return float("inf")


def answer_of(*command: str) -> list[str] | None:
    """The lines that one of SLURM's commands prints; None where it is missing, fails, or takes half a minute."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.splitlines() if answer.returncode == 0 else None


def lines_of(*command: str) -> list[str]:
    """The same, and no lines where there is no answer."""
    return answer_of(*command) or []


def words_of(*command: str) -> list[str]:
    """The different words that one of SLURM's commands prints."""
    return sorted({word for line in lines_of(*command) for word in line.split()})

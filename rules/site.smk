# Where jobs run: what the site's file adds to what the experiment asks for, once Snakemake submits jobs.

import getpass
import os
import re
import shutil
import subprocess
from typing import Annotated

from pydantic import Field

from openset_distill.config.experiment import Gpus, MemoryMb, ResourceSettings, RuntimeMin, Strict, Threads, validated
from openset_distill.core.errors import SettingsError
from openset_distill.core.yaml_files import read_yaml

# true in the process that submits, and in the ones that it starts on other machines
ON_CLUSTER = workflow.remote_exec or workflow.resource_settings.nodes is not None
SITE_FILE = Path(os.environ.get("OPENSET_SITE") or Path(workflow.basedir, "profiles/slurm/site.yaml"))


class SiteJob(Strict):
    """What a site asks for in one kind of job; docs/cluster.md explains each key."""

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    mail: str | None = None
    extra: str | None = None
    save_seconds: Annotated[int, Field(ge=0, le=86_400)] = 120
    threads: Threads | None = None
    memory_mb: MemoryMb | None = None
    runtime_min: RuntimeMin | None = None
    gpu: Gpus | None = None


class Site(Strict):
    """The whole file: `every` job, and what differs for one kind of job. Downloads run where Snakemake runs."""

    every: SiteJob = SiteJob()
    prepare: SiteJob = SiteJob()
    train_teacher: SiteJob = SiteJob()
    train_student: SiteJob = SiteJob()
    analyze: SiteJob = SiteJob()
    measure: SiteJob = SiteJob()
    light: SiteJob = SiteJob()


def read_site():
    """The site's file, or SLURM's own defaults where there is none."""
    if not SITE_FILE.exists():
        if "OPENSET_SITE" in os.environ:
            raise SettingsError(f"the site's file {SITE_FILE} (variable OPENSET_SITE) does not exist; correct the path")
        return Site()
    return validated(Site, read_yaml(SITE_FILE, "the site's file") or {}, source=str(SITE_FILE))


def site(kind):
    """What the site says about a kind of job: its own keys, on top of those of every job."""
    own = getattr(SITE, kind, SiteJob())
    return SITE.every.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def wanted(kind):
    """The configured resources of a kind of job."""
    resources = getattr(SETTINGS.resources, kind)
    if not ON_CLUSTER:
        return resources
    overrides = {key: getattr(site(kind), key) for key in type(resources).model_fields}
    return resources.model_copy(update={key: value for key, value in overrides.items() if value is not None})


def resources_of(kind, most_gpus=None):
    """The same as resources of a rule, and on a cluster what SLURM is told beyond them."""
    job = wanted(kind)
    if most_gpus is not None:
        job = job.model_copy(update={"gpu": min(job.gpu, most_gpus)})
    resources = {"mem_mb": job.memory_mb, "runtime": job.runtime_min, "gpu": job.gpu}
    if not ON_CLUSTER:
        return resources
    at = site(kind)
    told = {
        "slurm_account": at.account,
        "slurm_partition": at.partition,
        "qos": at.qos,
        "constraint": at.constraint,
    }
    if at.gres and job.gpu:
        told["gres"] = f"{at.gres}:{job.gpu}"
        resources["gpu"] = 0
    extra = [at.extra] if at.extra else []
    if at.mail:
        extra += [f"--mail-user={at.mail}", "--mail-type=FAIL"]
    if kind.startswith("train_") and at.save_seconds:
        # a training saves its state at this signal; a short job is not interrupted before three quarters of its time
        extra.append(f"--signal=TERM@{min(at.save_seconds, 15 * job.runtime_min)}")
    told["slurm_extra"] = " ".join(extra)
    return resources | {name: value for name, value in told.items() if value}


def check_site():
    """Asks SLURM, for one job of each rule, whether it would take it, before any is submitted.

    Raises a WorkflowError with SLURM's own words, what was asked for, and where to correct it.
    """
    if shutil.which("sbatch") is None:
        raise WorkflowError(
            "sbatch is not installed on this machine. Start the workflow on a login node of the cluster, or leave out "
            "`--profile profiles/slurm` (and the variable SNAKEMAKE_PROFILE) to run it here."
        )
    rules_of = {}
    for job in workflow.dag.needrun_jobs():
        if not job.is_local:
            rules_of.setdefault(sbatch_options(job), set()).add(job.rule.name)
    for options, names in rules_of.items():
        refusal = refused(options)
        if refusal:
            partitions = ", ".join(lines_of("sinfo", "--noheader", "--format=%R"))
            associations = lines_of(
                "sacctmgr", "-nP", "list", "associations", f"user={getpass.getuser()}", "format=account"
            )
            raise WorkflowError(
                f"SLURM would refuse {', '.join(sorted(names))}: {refusal}\n"
                f"Asked for: {' '.join(options)}\n"
                f"There are: partitions {partitions or 'unknown'}; your accounts {', '.join(associations) or 'unknown'}\n"
                f"Correct {SITE_FILE}, or `resources` of the experiment; docs/cluster.md explains the keys."
            )


def name_jobs():
    """Puts the experiment before the name that all jobs of this call share; their comments say rule, split, seed, run."""
    executor = workflow.scheduler._executor
    executor.run_uuid = f"{EXPERIMENT.name}_{executor.run_uuid}"


def show_failed_jobs():
    """Prints SLURM's own words on every job of this call that ended badly, and where its log lies."""
    query = ["sacct", "-nPX", "--starttime=now-30days", f"--name={workflow.scheduler._executor.run_uuid}"]
    answer = subprocess.run([*query, "--format=JobIDRaw,State,Elapsed,Timelimit"], capture_output=True, text=True)
    for line in answer.stdout.splitlines():
        number, state, elapsed, limit = line.split("|")
        if state in ("COMPLETED", "RUNNING", "PENDING", "COMPLETING"):
            continue
        parts = [f"SLURM job {number}: {state} after {elapsed} of {limit}"]
        for log in Path(".snakemake/slurm_logs").rglob(f"{number}.log"):
            # what the node's daemon wrote between the lines of the job: memory, cancellation, time
            words = re.findall(r"^slurmstepd.*?: error: (.*)$", log.read_text(errors="replace"), re.MULTILINE)
            parts += [*words[:1], f"log: {log}"]
        print("; ".join(parts))


def sbatch_options(job):
    """What a job will ask SLURM for. A group of short steps asks for the sum of their times."""
    asked, groups = job.resources, workflow.group_settings
    members = groups.group_components.get(groups.overwrite_groups.get(job.rule.name), 1)
    options = [f"--cpus-per-task={job.threads}", f"--mem={asked.mem_mb}", f"--time={asked.runtime * members}"]
    names = {"slurm_account": "account", "slurm_partition": "partition", "gpu": "gpus"}
    for name in ("slurm_account", "slurm_partition", "qos", "constraint", "gpu", "gres"):
        if asked.get(name):
            options.append(f"--{names.get(name, name)}={asked.get(name)}")
    return (*options, *shlex.split(asked.get("slurm_extra", "")))


def refused(options):
    """Why SLURM would not run a job, or nothing."""
    answer = subprocess.run(["sbatch", "--test-only", *options, "--wrap=true"], capture_output=True, text=True)
    if answer.returncode:
        return answer.stderr.strip()
    # many clusters accept a job that is longer than its partition allows, and never start it
    asked = dict(option.split("=", 1) for option in options if "=" in option)
    partition = asked.get("--partition") or re.search(r"in partition (\S+)|$", answer.stderr)[1]
    if partition:
        limits = [
            minutes(limit) for limit in lines_of("sinfo", "--noheader", f"--partition={partition}", "--format=%l")
        ]
        if limits and float(asked["--time"]) > max(limits):
            return f"partition {partition} runs no job longer than {max(limits):.0f} minutes"
    return ""


def minutes(limit):
    """SLURM's [days-]hours:minutes:seconds as minutes."""
    days, _, clock = limit.rpartition("-")
    try:
        seconds = sum(int(part) * 60**power for power, part in enumerate(reversed(clock.split(":"))))
    except ValueError:  # infinite
        return float("inf")
    return int(days or 0) * 1440 + seconds / 60


def lines_of(*command):
    """The different lines that one of SLURM's commands prints; none where it fails."""
    answer = subprocess.run(command, capture_output=True, text=True)
    return sorted(set(answer.stdout.split())) if answer.returncode == 0 else []


try:
    SITE = read_site() if ON_CLUSTER else Site()
except OpenSetError as error:
    raise WorkflowError(str(error))

if ON_CLUSTER:
    # The jobs' own Snakemake must not submit again.
    os.environ.pop("SNAKEMAKE_PROFILE", None)
    # Without these, `cores: all` and `gpu=1` of the default profile would cut every job down to the login node. They
    # bound a group of small jobs, which asks for about as much as the largest single job, and by their memory what runs
    # on the login node itself.
    LARGEST = [wanted(kind) for kind in ResourceSettings.model_fields]
    workflow.resource_settings.cores = max(job.threads for job in LARGEST)
    workflow.global_resources["_cores"] = workflow.resource_settings.cores
    workflow.global_resources["gpu"] = max(job.gpu for job in LARGEST)
    workflow.global_resources["mem_mb"] = max(2 * wanted("light").memory_mb, *(job.memory_mb for job in LARGEST))

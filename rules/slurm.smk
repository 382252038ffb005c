# Where jobs run: what the site's file adds to what the experiment asks for, once Snakemake submits jobs.
# The logic is plain functions in workflow_scripts/slurm.py.

import shutil

# true in the process that submits, and in the ones that it starts on other machines
ON_CLUSTER = workflow.remote_exec or workflow.resource_settings.nodes is not None
# inside a job the plugin takes every variable of SLURM away, this one too, by which some sites' commands find their cluster
SLURM_CONF = os.environ.get("SLURM_CONF")
SITE_FILE = Path(os.environ.get("OPENSET_SITE") or Path(workflow.basedir, "profiles/slurm/site.yaml"))
try:
    SITE = slurm.read_site(SITE_FILE, named="OPENSET_SITE" in os.environ) if ON_CLUSTER else slurm.Site()
except OpenSetError as error:
    raise WorkflowError(str(error))


def wanted(kind):
    """The configured resources of a kind of job."""
    resources = getattr(SETTINGS.resources, kind)
    return slurm.on_site(resources, SITE.of(kind)) if ON_CLUSTER else resources


def resources_of(kind, most_gpus=None):
    """The same as resources of a rule, and on a cluster what SLURM is told beyond them."""
    job = wanted(kind)
    if most_gpus is not None:
        job = job.model_copy(update={"gpu": min(job.gpu, most_gpus)})
    return slurm.resources(kind, job, SITE.of(kind) if ON_CLUSTER else None)


def executor_of_this_call():
    """The SLURM plugin's object, for the name of this call's jobs.

    The experiment is known only when the Snakefile has been read, too late for the option `slurm-jobname-prefix`, and
    Snakemake shows its executor nowhere else: tests/workflow/test_slurm_functions.py fails where this attribute goes.
    """
    return workflow.scheduler._executor


def begin_on_slurm():
    """Asks SLURM, for one job of each rule, whether it would take it, and names the jobs after the experiment.

    Raises a WorkflowError with SLURM's own words, what was asked for, and where to correct it.
    """
    if shutil.which("sbatch") is None:
        raise WorkflowError(
            "sbatch is not installed on this machine. Start the workflow on a login node of the cluster, or leave out "
            "`--profile profiles/slurm` (and the variable SNAKEMAKE_PROFILE) to run it here."
        )
    if SLURM_CONF is not None:
        os.environ |= {"SLURM_CONF": SLURM_CONF}
    from snakemake_executor_plugin_slurm.validation import get_forbidden_slurm_options

    rules_of, groups = {}, workflow.group_settings
    for job in workflow.dag.needrun_jobs():
        if not job.is_local:
            members = groups.group_components.get(groups.overwrite_groups.get(job.rule.name), 1)
            rules_of.setdefault(slurm.sbatch_options(job.threads, job.resources, members), set()).add(job.rule.name)
    for options, names in rules_of.items():
        if reason := slurm.refused(options, get_forbidden_slurm_options()):
            raise WorkflowError(slurm.refusal(options, names, reason, SITE_FILE))
    told = slurm.configuration("MinJobAge", "PreemptMode")
    for line in slurm.warnings(told):
        print(line, file=sys.stderr)
    age, settings = slurm.min_job_age(told.get("MinJobAge", "")), workflow.executor_settings
    if age is not None and age < slurm.LONGEST_POLL_SECONDS:
        settings.init_seconds_before_status_checks = max(
            settings.init_seconds_before_status_checks, slurm.SACCT_INTERVAL_SECONDS
        )
    executor = executor_of_this_call()
    executor.run_uuid = f"{EXPERIMENT.name}_{executor.run_uuid}"
    # where the site names no account SLURM's own default holds, not the account of whatever ran last
    executor._fallback_account_arg = ""
    slurm.watch(executor, slurm.Ended())


def show_failed_jobs():
    """Prints SLURM's own words on every job of this call that ended badly, and where its log lies."""
    for line in slurm.failed_jobs(executor_of_this_call().run_uuid, Path(".snakemake/slurm_logs")):
        print(line)


if ON_CLUSTER:
    # The jobs' own Snakemake must not submit again.
    os.environ.pop("SNAKEMAKE_PROFILE", None)
    # Without these, `cores: all` and `gpu=1` of the default profile would cut every job down to the login node.
    for name, most in slurm.bounds(SITE, SETTINGS.resources).items():
        workflow.global_resources[name] = most
    workflow.resource_settings.cores = workflow.global_resources["_cores"].value
if ON_CLUSTER and not workflow.remote_exec:
    # a job beyond the limit is not queued but refused, and its second attempt with it
    limits = [workflow.resource_settings.nodes, SITE.jobs, slurm.submit_limit(SITE.qualities)]
    workflow.resource_settings.nodes = min(limit for limit in limits if limit is not None)
    workflow.global_resources["_nodes"] = workflow.resource_settings.nodes

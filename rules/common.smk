# The experiment, the places of its files, and what rules share.

import contextlib
import dataclasses
import io
import json
import os
import shlex
import signal
import sys
from pathlib import Path

import snakemake.cli
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from openset_distill.core.errors import OpenSetError, nearest
from openset_distill.core.files import read_record
from openset_distill.core.names import any_of
from openset_distill.core.signals import handle_in_thread
from openset_distill.core.text import rst_escape
from openset_distill.config.experiment import load
from openset_distill.config.loading import read_configuration
from openset_distill.models import BACKBONES
from openset_distill.report.overview import introduction, show
from openset_distill.report.tidy_tables import TIDY_TABLES

# the logic of slurm.smk, screen.smk and begin_here
sys.path.insert(0, str(Path(workflow.basedir, "workflow_scripts")))
import fork_server
import screen
import slurm

sys.path.pop(0)  # the scripts there have names that modules may have too


# gpu counts the devices of one machine: jobs on other machines do not compete for them
resource_scopes:
    gpu="local",


if not os.access(".snakemake" if os.path.exists(".snakemake") else ".", os.W_OK):
    raise WorkflowError(f"{Path.cwd()} cannot be written; clone the repository into a folder of your own")

if any(letter in workflow.basedir for letter in "{}"):
    raise WorkflowError(f"{workflow.basedir} contains braces, which Snakemake takes for wildcards; rename the folder")

try:
    # Snakemake's own reader keeps the last of two equal keys, without a word
    for file in workflow.configfiles:
        read_configuration(file)
    EXPERIMENT = load(config, stands_alone=bool(workflow.configfiles))
    CONTEXT = EXPERIMENT.context()
except OpenSetError as error:
    raise WorkflowError(str(error))


def quoted(*parts):
    """A path of the repository for the shell, with braces doubled: the prefix is a format string."""
    return shlex.quote(str(Path(workflow.basedir, *parts))).replace("{", "{{").replace("}", "}}")


SOURCE = quoted("src")
# Jobs find the library of this very checkout, also in an environment where it is not installed. A scheduler's SIGTERM
# goes to the whole job: the shell outlives it, so that a training has the time to save its state.
# The GPUs that a scheduler gave to the job are passed on: a job that finds none of them must not train on the CPU.
EXPORTS = "export OPENSET_GPUS=${{SLURM_JOB_GPUS:-}}; "
# nodes often have no internet: weights were fetched where the workflow runs, and a job does not look for newer ones
EXPORTS += "export HF_HUB_OFFLINE=1; " if workflow.remote_exec else ""
# Short jobs are forked from a process that has imported their modules, where there is one (begin_here).
FORKED = "python() {{ command python -I -S " + quoted("workflow_scripts", "fork_server.py") + ' "$@"; }}'
EXPORTS += f'[ -z "${{{{{fork_server.VARIABLE}:-}}}}" ] || {FORKED}; '
shell.prefix(f"set -euo pipefail; trap : TERM; {EXPORTS}export PYTHONPATH={SOURCE}; ")

ENVIRONMENT = "../environment.yml"
SETTINGS = EXPERIMENT.settings
DATA = SETTINGS.data.folder
RESULTS = f"{SETTINGS.results}/{EXPERIMENT.name}"
SPLIT = f"{RESULTS}/split{{split}}/seed{{seed}}"
RUN = f"{SPLIT}/{{run}}"
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
# kept results hold tidy tables and no networks: figures and tables are drawn beside them
SHOWN = SETTINGS.redraw or RESULTS
TIDY = f"{SHOWN}/tidy"
FIGURES_FOLDER = f"{SHOWN}/figures"
TABLES_FOLDER = f"{SHOWN}/tables"

# prepared data may lie in a shared folder that only others write to
for place, written in ((SHOWN, True), (DATA, False)):
    existing = next(path for path in (Path(place), *Path(place).parents) if path.exists())
    if not existing.is_dir() or (written and not os.access(existing, os.W_OK)):
        raise WorkflowError(f"{existing} is not a writable folder; set another one with `results` or `data.folder`")

if not SETTINGS.redraw:
    try:
        EXPERIMENT.check_results(RESULTS)
    except OpenSetError as error:
        raise WorkflowError(str(error))


wildcard_constraints:
    dataset="[A-Za-z0-9_]+",
    own=any_of(["", EXPERIMENT.own_set("image_folder")]),
    size=r"\d+",
    channels="1|3",
    split=r"\d+",
    seed=r"\d+",
    run=any_of(EXPERIMENT.runs),


def as_json(value):
    return json.dumps(value)


def literal(value):
    """A parameter that holds users' text: Snakemake fills wildcards into text, but not into what a function returns."""
    return lambda wildcards: value


def options(option, values):
    """`option` before each value: how a repeatable option reaches a command line."""
    return [part for value in values for part in (option, value)]


def named(names, paths):
    """Names and paths as NAME=PATH."""
    return [f"{name}={path}" for name, path in zip(names, paths, strict=True)]


def folder_of(path):
    return str(Path(path).parent)


def options_of_predictions(input, output):
    arrays, description = input.split
    told = ["--predictions", output.predictions, "--split", arrays, "--description", description]
    return told + options("--prepared", map(folder_of, input.prepared))


def teachers_of(wildcards, run=None):
    return [f"{SPLIT}/{teacher}/weights.safetensors" for teacher in EXPERIMENT.runs[run or wildcards.run].teachers]


def given_weights_of(wildcards):
    """The file of weights that a run's backbone starts from, as a list: the user's own, or the record of those that were
    fetched for it; empty where it starts from random ones."""
    backbone = BACKBONES.build(EXPERIMENT.runs[wildcards.run].backbone)
    if getattr(backbone, "weights", None):
        return [backbone.weights]
    fetched = getattr(backbone, "pretrained", False) and backbone.package is None
    return [f"{DATA}/raw/weights/{backbone.model}.json"] if fetched else []


def teacher_logits_of(wildcards):
    """The cached teacher logits that a run reads, as a list: empty where its teacher runs along, or there is none.

    Version 0.1 called the file `answers_...`; one that is there is read and not made again.
    """
    if not EXPERIMENT.runs[wildcards.run].cached:
        return []
    key = EXPERIMENT.teacher_logits_key(wildcards.run)
    new, old = (f"{SPLIT}/{name}_{key}.safetensors" for name in ("teacher_logits", "answers"))
    here = {path: os.path.exists(path.format(**wildcards)) for path in (new, old)}
    return [old if here[old] and not here[new] else new]


def training_job(wildcards):
    return as_json(EXPERIMENT.run_config(wildcards.run, int(wildcards.split), int(wildcards.seed)).plain())


def caching_job(wildcards):
    return as_json(EXPERIMENT.images_seen(wildcards.key, int(wildcards.split), int(wildcards.seed)).plain())


def samples_of_trainings():
    """How many training images each training writes the outputs of, for detectors; 0 where a rule of its own does.

    It does where a finished run lacks them: detectors that are added later train nothing again. Jobs on nodes take the
    answer of the process that submitted them.
    """
    told = os.environ.get("OPENSET_TRAINING_OUTPUTS")
    if workflow.remote_exec and told:
        return int(told)
    samples = SETTINGS.evaluation.detector_samples if EXPERIMENT.detectors else 0
    for record in Path(RESULTS).glob("split*/seed*/*/provenance.json") if samples else ():
        with contextlib.suppress(OpenSetError, OSError):
            if read_record(record, {}).get("training_outputs") != samples:
                samples = 0
                break
    os.environ |= {"OPENSET_TRAINING_OUTPUTS": str(samples)}
    return samples


def begin_here():
    """Starts the servers that fork short jobs; without them, each job is started plainly.

    Jobs on other machines and in environments of their own are, and all where the variable is set to nothing.
    """
    own_environments = workflow.deployment_settings.deployment_method
    if fork_server.VARIABLE not in os.environ and fork_server.worthwhile(EXPERIMENT) and not own_environments:
        with contextlib.suppress(OSError):
            environment = {**os.environ, "PYTHONPATH": str(Path(workflow.basedir, "src"))}
            os.environ[fork_server.VARIABLE] = fork_server.start_servers(environment)


def check_targets():
    """Refuses a target that nothing makes and names the nearest one. Called when the whole workflow is known.

    Snakemake itself would say so later, in more lines and without a hint. It does not show a Snakefile what it was
    asked for, so its command line is read once more.
    """
    if Path(sys.argv[0]).stem not in ("snakemake", "__main__"):
        return
    with contextlib.redirect_stderr(io.StringIO()):
        _, asked = snakemake.cli.parse_args(sys.argv[1:])
    steps = {step.name: step for step in workflow.rules}
    shown = [name for name in steps if not name.startswith(("figure_", "table_"))]
    for target in {*asked.targets, *asked.forcerun, *asked.until, *asked.omit_from}:
        if target in steps or os.path.exists(target) or any(step.is_producer(target) for step in steps.values()):
            continue
        if target in FIGURES and target not in EXPERIMENT.figures:
            lacking = " and ".join(EXPERIMENT.lacks(target)) or "to be named in show.figures"
            raise WorkflowError(f"the figure {target} needs {lacking}, which this experiment lacks")
        if os.sep not in target:
            raise WorkflowError(f"unknown target {target!r}; {nearest(target, shown)}")
        made = [f"{EXPERIMENT.first(RUN).replace('{run}', run)}/metrics.json" for run in EXPERIMENT.runs]
        made += [*FIGURE_FILES, *TABLE_FILES, f"{TIDY}/summary.csv"]
        raise WorkflowError(f"no rule makes the file {target}; {nearest(target, made)}")
    for name in asked.allowed_rules or ():
        if name not in steps:
            raise WorkflowError(f"--allowed-rules: unknown rule {name!r}; {nearest(name, steps)}")


def made(wildcards):
    """MADE as the input of a target: hundreds of files, which a target that nobody asks for need not list."""
    return MADE


def tidy_tables(names):
    return [f"{TIDY}/{name}.csv" for name in names]


def sources_of(table):
    """The files of runs, or of splits and seeds, that the rows of a tidy table come from."""
    if not table.source:
        return []
    grid = {"split": EXPERIMENT.splits, "seed": EXPERIMENT.seeds}
    folder = EXPERIMENT.first(SPLIT) if table.first else SPLIT
    runs = EXPERIMENT.compared_runs if table.compared else EXPERIMENT.runs
    return expand(f"{folder}/{table.source}", **grid, run=runs)


REPORTS = "--report" in sys.argv


def drawing(name, specification):
    """The parameters by which a figure or table is made. A report makes nothing and shows them by their names, so there they
    say in words what is drawn."""
    if REPORTS:
        return {key: literal(words) for key, words in CONTEXT.in_words().items()}
    return {
        "name": name,
        "caption": literal(rst_escape(specification.caption_for(CONTEXT))),
        "context": literal(as_json(dataclasses.asdict(CONTEXT))),
        "tables": literal(options("--table", [f"{table}={TIDY}/{table}.csv" for table in specification.tables])),
    }


def reported(specification):
    """The caption in a report, without a name, so that it is not shown as a parameter again."""
    return [literal(rst_escape(specification.caption_for(CONTEXT)))] if REPORTS else []

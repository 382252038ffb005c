# The experiment, the places of its files, and what rules share.

import json

from snakemake.exceptions import WorkflowError

from openset_distill.errors import OpenSetError
from openset_distill.experiment import load
from openset_distill.summary import show


# gpu counts the devices of one machine: jobs on other machines do not compete for them
resource_scopes:
    gpu="local",


try:
    EXPERIMENT = load(config, stands_alone=bool(workflow.configfiles))
except OpenSetError as error:
    raise WorkflowError(str(error))

SETTINGS = EXPERIMENT.settings
DATA = SETTINGS.data.folder
RESULTS = f"{SETTINGS.results}/{EXPERIMENT.name}"
SPLIT = f"{RESULTS}/split{{split}}/seed{{seed}}"
RUN = f"{SPLIT}/{{run}}"
LOGS = f"{RESULTS}/logs"
BENCHMARKS = f"{RESULTS}/benchmarks"
TIDY = f"{RESULTS}/tidy"
FIGURES_FOLDER = f"{RESULTS}/figures"
TABLES_FOLDER = f"{RESULTS}/tables"


wildcard_constraints:
    dataset="[A-Za-z0-9_]+",
    size=r"\d+",
    channels="1|3",
    split=r"\d+",
    seed=r"\d+",
    run="|".join(EXPERIMENT.runs),


def wanted(kind):
    """The configured resources of a kind of job."""
    return getattr(SETTINGS.resources, kind)


def as_json(value):
    return json.dumps(value)


def options(option, values):
    """`option` before each value: how a repeatable option reaches a command line."""
    return [part for value in values for part in (option, value)]

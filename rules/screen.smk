# What the terminal shows of a run here: one line a job, with what is done and what time is left. Snakemake's own words
# are in its log file, and on the terminal with --verbose or --printshellcmds.

import collections
import logging
import time

from snakemake.logging import get_event, logger
from snakemake_interface_logger_plugins.common import LogEvent

from openset_distill.report.screen import last_error

DOING = {
    "download_dataset": "fetching {dataset}",
    "fetch_weights": "fetching the weights of {model}",
    "prepare_dataset": "preparing {dataset}",
    "make_split": "choosing classes and images",
    "train_teacher": "training {run}",
    "train_student": "training {run}",
    "cache_teacher_logits": "caching teacher logits",
    "training_outputs": "reading training images of {run}",
    "evaluate": "evaluating {run}",
    "scan_mixing": "scanning mixed images",
    "measure_feature_geometry": "measuring features",
    "compute_gradcam": "computing Grad-CAM",
    "embed_features": "embedding {run}",
    "aggregate": "gathering all runs",
}
STARTED = time.monotonic()
# said before or between jobs, and of no use to a reader
HIDDEN = ("Select jobs to execute", "Execute ", "Using shell:", "Provided ", "Rules claiming ", "Conda environments")
# a command that failed is told by the last line of its own log, which is the last of all lines
OF_ERRORS = ("RuleException:\nCalledProcessError in", "WorkflowError:\nAt least one job did not complete")
INTERRUPTED = ("error: stopped by a signal", "error: interrupted")
AFTER_ERROR = ("Complete log(s):", "Elapsed time:", "Exiting because", "Shutting down")


class OneLineAJob(logging.Filter):
    """Counts what is done, and lets through what is worth a line."""

    def __init__(self):
        super().__init__()
        self.done, self.total, self.started, self.failed = 0, 0, {}, {}

    def filter(self, record):
        event, text = get_event(record), str(record.msg or "")
        if event == LogEvent.PROGRESS:
            self.done, self.total = record.done, record.total
        if event == LogEvent.JOB_INFO:
            self.started[str(record.jobid)] = doing(record)
            return bool(record.log)  # a target has no log and does nothing
        if event == LogEvent.JOB_ERROR:
            self.failed[str(record.jobid)] = logs = list(record.log or [])
            return not (logs and all(last_error(path).startswith(INTERRUPTED) for path in logs))
        if text.startswith("Nothing to be done"):
            show(TIDY, FIGURES_FOLDER, TABLES_FOLDER, CONTEXT)
        hidden = (LogEvent.PROGRESS, LogEvent.JOB_FINISHED, LogEvent.SHELLCMD, LogEvent.RESOURCES_INFO)
        words = (*HIDDEN, *OF_ERRORS, *(AFTER_ERROR if self.failed else ()))
        return event not in hidden and not text.startswith(words)


class OneLine(logging.Formatter):
    """A job's line: how much is done, what it does, and where its log is."""

    def __init__(self, before, counts):
        super().__init__()
        self.before, self.counts = before, counts

    def format(self, record):
        event = get_event(record)
        if event == LogEvent.JOB_ERROR:
            logs = ", ".join(map(str, record.log or ()))
            words = self.counts.started.get(str(record.jobid), record.rule_name)
            return f"failed: {words}" + (f"; log: {logs}" if logs else "")
        if event != LogEvent.JOB_INFO:
            return self.before.format(record)
        return f"[{time.strftime('%H:%M:%S')}] {self.progress()}{doing(record)}; log: {', '.join(map(str, record.log))}"

    def progress(self):
        done, total = self.counts.done, self.counts.total
        if not total:
            return ""
        left = (time.monotonic() - STARTED) / done * (total - done)
        clock = f"{left / 3600:.1f} h" if left >= 5400 else f"{left / 60:.0f} min" if left >= 90 else f"{left:.0f} s"
        return f"{done} of {total} done, about {clock} left: "


def doing(record):
    """What a job does, in words."""
    kind, _, name = record.rule_name.partition("_")
    words = {"figure": f"drawing {name}", "table": f"making the table {name}"}.get(kind)
    wildcards = collections.defaultdict(str, record.wildcards or {})
    words = words or DOING.get(record.rule_name, record.rule_name.replace("_", " ")).format_map(wildcards)
    return ", ".join([words, *(f"{key} {wildcards[key]}" for key in ("split", "seed") if key in wildcards)])


def show_errors():
    """Prints why each job failed, the last lines of a call; one line where all were interrupted."""
    reasons = [last_error(path) for logs in COUNTS.failed.values() for path in logs]
    if reasons and all(reason.startswith(INTERRUPTED) for reason in reasons):
        lines = ["interrupted: what was complete is kept, trainings saved their state, and the same command resumes"]
    else:
        lines = [
            "The workflow stopped at an error. What was complete stays, and the same command goes on from there. "
            "`make doctor` looks for what is in the way.",
            *reasons,
        ]
    print(*lines, sep="\n", file=sys.stderr, flush=True)


COUNTS = OneLineAJob()
output = workflow.output_settings
if not (ON_CLUSTER or workflow.dryrun or output.verbose or output.printshellcmds):
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(COUNTS)
            handler.setFormatter(OneLine(handler.formatter, COUNTS))

"""The terminal output of the workflow: one line per job, and a progress line below them.

`rules/screen.smk` shows it instead of Snakemake's own output, which is in its log file.
"""

from __future__ import annotations

import collections
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from snakemake.logging import get_event
from snakemake_interface_logger_plugins.common import LogEvent

from openset_distill.report.overview import last_error

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
# said before or between jobs, and of no use to a reader
HIDDEN = (
    "Select jobs to execute",
    "Execute ",
    "Using shell:",
    "Provided ",
    "Rules claiming ",
    "Conda environments",
    "Singularity containers",
)
HIDDEN_EVENTS = (LogEvent.PROGRESS, LogEvent.JOB_FINISHED, LogEvent.SHELLCMD, LogEvent.RESOURCES_INFO)
# a command that failed is told by the last line of its own log, which is the last of all lines
OF_ERRORS = ("RuleException:\nCalledProcessError in", "WorkflowError:\nAt least one job did not complete")
INTERRUPTED = ("error: stopped by a signal", "error: interrupted")
AFTER_ERROR = ("Complete log(s):", "Elapsed time:", "Exiting because", "Shutting down")
# Snakemake says it again at the end of each job that it waits for
GRACEFUL = "Will exit after finishing currently running jobs"
# what it says of Ctrl-C
STOPPING = "Terminating processes on user request"
REFRESH_SECONDS = 1.0
CLEAR = "\r\x1b[2K"
# whether the last lines of this process have been printed, so that tools/start.py adds none
reasons_shown = False


def doing(rule: str, wildcards: Mapping[str, object] | None) -> str:
    """What a job does, in words: `training cutmix, split 2, seed 0`."""
    kind, _, name = rule.partition("_")
    known = collections.defaultdict(str, {key: str(value) for key, value in (wildcards or {}).items()})
    words = {"figure": f"drawing {name}", "table": f"making the table {name}"}.get(kind)
    words = words or DOING.get(rule, rule.replace("_", " ")).format_map(known)
    return ", ".join([words, *(f"{key} {known[key]}" for key in ("split", "seed") if key in known)])


def clock(seconds: float) -> str:
    """A time in the unit that is read most easily."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def epoch_of(log: str) -> str:
    """Where a training stands, `epoch 34/150`, from the end of its log; empty where that does not tell."""
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
            found = re.findall(rb"epoch \d+/\d+", stream.read())
    except OSError:
        return ""
    return found[-1].decode() if found else ""


class Jobs(logging.Filter):
    """Counts what is done and what runs, and lets through the records that are worth a line.

    Attributes:
        failed: the logs of each job that failed, by its number.

    Args:
        nothing_to_do: called where Snakemake finds everything made.
    """

    def __init__(self, nothing_to_do: Callable[[], None]):
        super().__init__()
        self.nothing_to_do = nothing_to_do
        self.began = time.monotonic()
        self.done = self.total = 0
        self.started: dict[str, str] = {}
        self.running: dict[str, tuple[str, str]] = {}
        self.failed: dict[str, list[str]] = {}
        self._said_graceful = self._stopping = False

    def filter(self, record: Any) -> bool:  # a record with what Snakemake adds to it
        event, text = get_event(record), str(record.msg or "")
        number = str(getattr(record, "jobid", getattr(record, "job_id", "")))
        if event == LogEvent.PROGRESS:
            self.done, self.total = record.done, record.total
        if event == LogEvent.JOB_INFO:
            self.started[number] = words = doing(record.rule_name, record.wildcards)
            if record.log:  # a target has no log and does nothing
                self.running[number] = (words, str(next(iter(record.log))))
            return bool(record.log)
        if event in (LogEvent.JOB_FINISHED, LogEvent.JOB_ERROR):
            self.running.pop(number, None)
        if event == LogEvent.JOB_FINISHED:
            self.failed.pop(number, None)  # a further attempt has succeeded
        if event == LogEvent.JOB_ERROR:
            self.failed[number] = logs = list(map(str, record.log or []))
            return not _interrupted(map(last_error, logs))
        if text.startswith("Nothing to be done"):
            self.nothing_to_do()
        if text.startswith(STOPPING):
            self._stopping = True
        if text.startswith(GRACEFUL):
            said, self._said_graceful = self._said_graceful, True
            return not said
        words = (*HIDDEN, *OF_ERRORS, *(AFTER_ERROR if self.failed or self._stopping else ()))
        return event not in HIDDEN_EVENTS and not text.startswith(words)

    def progress(self) -> str:
        """How much is done and what time is left: `47/184, 2 min left`; empty before the first job's end."""
        if not (self.done and self.total):
            return ""
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        return f"{self.done}/{self.total}, {clock(left)} left"

    def status(self) -> str:
        """The progress, and each running job with its epoch."""
        running = [", ".join(filter(None, (words, epoch_of(log)))) for words, log in list(self.running.values())]
        return ": ".join(filter(None, (self.progress(), "; ".join(running)))) if running else ""

    def reasons(self) -> list[str]:
        """Why the workflow stopped, the last lines of a call; one line where all failed jobs were interrupted."""
        reasons = [last_error(path) for logs in self.failed.values() for path in logs]
        if _interrupted(reasons) or (self._stopping and not reasons):
            return ["interrupted: finished outputs are kept, trainings saved their state, and the same command resumes"]
        return [
            "The workflow stopped at an error. Finished outputs are kept; after fixing it, the same command resumes. "
            "`make doctor` diagnoses common problems.",
            *reasons,
        ]


def _interrupted(reasons: Iterable[str]) -> bool:
    """Whether there are reasons, and each is a signal."""
    reasons = list(reasons)
    return bool(reasons) and all(reason.startswith(INTERRUPTED) for reason in reasons)


class OneLine(logging.Formatter):
    """A job's line: what it does and where its log is, after how much is done where no line below says that.

    Args:
        before: what formats every other record.
        columns: the width of the terminal, which a line with a log must fit into; None where there is no terminal.
    """

    def __init__(self, before: logging.Formatter, jobs: Jobs, columns: Callable[[], int] | None = None):
        super().__init__()
        self.before, self.jobs, self.columns = before, jobs, columns
        self._named: set[str] = set()

    def format(self, record: Any) -> str:
        event = get_event(record)
        logs = ", ".join(map(str, getattr(record, "log", None) or ()))
        if event == LogEvent.JOB_ERROR:
            words = self.jobs.started.get(str(record.jobid), record.rule_name)
            return f"failed: {words}" + (f"; log: {logs}" if logs else "")
        if event != LogEvent.JOB_INFO:
            return self.before.format(record)
        line, progress = f"[{time.strftime('%H:%M:%S')}] ", self.jobs.progress()
        if progress and not self.columns:
            line += f"{progress}: "
        line += doing(record.rule_name, record.wildcards)
        full = f"{line}; log: {logs}"
        if not logs or self.columns is None or len(full) <= self.columns():
            return full
        # too long for this terminal: the folder once, in a line of its own
        folder = str(Path(logs).parent)
        told, self._named = folder in self._named, self._named | {folder}
        return line if told else f"{line}\nlogs are in {folder}"


class Terminal(logging.StreamHandler):
    """Lines on a terminal, above a progress line that is redrawn every second."""

    def __init__(self, stream: TextIO, jobs: Jobs, *, colored: bool):
        super().__init__(stream)
        self.jobs, self.colored, self._shown, self._end = jobs, colored, "", threading.Event()
        self._drawing: Any = self.lock  # every handler has one
        threading.Thread(target=self._refresh, daemon=True).start()

    def columns(self) -> int:
        return shutil.get_terminal_size().columns

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line above the last one. Called under the handler's lock, as every method that draws is."""
        try:
            text = self.format(record)
            color = {logging.ERROR: 31, logging.WARNING: 33}.get(record.levelno) if self.colored else None
            self._clear()
            self.stream.write(f"\x1b[{color}m{text}\x1b[0m\n" if color else f"{text}\n")
            self._draw()
        except Exception:
            self.handleError(record)

    def finish(self) -> None:
        """Takes the last line away, for what is printed after the jobs."""
        self._end.set()
        with self._drawing:
            self._clear()
            self.flush()

    def close(self) -> None:
        self.finish()
        super().close()

    def _refresh(self) -> None:
        while not self._end.wait(REFRESH_SECONDS):
            with self._drawing:
                if self._line() != self._shown:
                    self._clear()
                    self._draw()

    def _line(self) -> str:
        # one column stays free: a full line would wrap, and only its last part be cleared
        return self.jobs.status()[: max(1, self.columns() - 1)]

    def _clear(self) -> None:
        if self._shown:
            self.stream.write(CLEAR)
        self._shown = ""

    def _draw(self) -> None:
        if not self._end.is_set():
            self._shown = self._line()
            self.stream.write(self._shown)
        self.flush()


def take_over(log: logging.Logger, jobs: Jobs, environment: Mapping[str, str] = os.environ) -> Terminal | None:
    """Puts these lines in the place of Snakemake's own; the terminal that draws, where there is one."""
    handlers: list[Any] = list(log.handlers)  # Snakemake's own has more than the library's
    for handler in handlers:
        if handler.name != "DefaultStreamHandler":
            continue
        handler.addFilter(jobs)
        if not handler.stream.isatty() or environment.get("TERM") == "dumb":
            handler.setFormatter(OneLine(handler.formatter, jobs))
            continue
        terminal = Terminal(handler.stream, jobs, colored=not (handler.nocolor or environment.get("NO_COLOR")))
        terminal.name = handler.name
        for each in handler.filters:
            terminal.addFilter(each)
        terminal.setFormatter(OneLine(handler.formatter, jobs, terminal.columns))
        log.removeHandler(handler)
        log.addHandler(terminal)
        return terminal
    return None


def show_reasons(jobs: Jobs) -> None:
    """Prints why the workflow stopped, after everything else."""
    global reasons_shown
    reasons_shown = True
    print(*jobs.reasons(), sep="\n", file=sys.stderr, flush=True)

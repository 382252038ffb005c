"""What a run shows: one line a job, the reason of a failure last, the results also where nothing was to be done."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import re
import sys
import time

import pytest
from commands import REPOSITORY
from small_repository import copy_of_the_repository, snakemake
from snakemake_interface_logger_plugins.common import LogEvent

sys.path.insert(0, str(REPOSITORY / "workflow_scripts"))
import screen

SPLIT = "results/digits/split0/seed0/split.npz"


def test_a_job_is_one_line_and_the_reason_of_a_failure_the_last(tmp_path):
    folder = copy_of_the_repository(tmp_path / "copy")
    done = snakemake(folder, SPLIT)
    assert done.returncode == 0, done.stderr
    own = "choosing classes and images, split 0, seed 0; log: results/digits/logs/split0_seed0_make_split.log"
    progress = r"\[..:..:..\] 2/3, \d+ (s|min) left: "
    assert re.search(rf"^{progress}{own}$", done.stderr, re.MULTILINE)
    assert "Finished jobid" not in done.stderr
    assert "reason:" not in done.stderr

    (folder / "data" / "prepared" / "digits" / "8x1" / "manifest.json").write_text("damaged")
    failed = snakemake(folder, SPLIT)
    lines = failed.stderr.splitlines()
    assert failed.returncode == 1
    assert f"failed: {own}" in lines
    assert lines[-1].startswith("error: ")
    assert "manifest.json" in lines[-1]
    assert "Traceback" not in failed.stderr
    assert "CalledProcessError" not in failed.stderr
    assert all(len(line) <= 160 for line in done.stderr.splitlines())

    reference = folder / "config" / "reference" / "protocols.json"
    reference.write_text("damaged")
    refused = snakemake(folder, SPLIT)
    assert refused.returncode == 1
    assert "protocols.json" in refused.stderr
    assert "Traceback" not in refused.stderr
    reference.write_text((REPOSITORY / "config" / "reference" / "protocols.json").read_text())
    full = snakemake(folder, SPLIT, "--forceall", "--verbose", "--dry-run")
    assert "rule make_split:" in full.stdout + full.stderr


# ---------------------------------------------------------------------------------------------- without Snakemake


def record(event: LogEvent | None = None, message: str = "", level: int = logging.INFO, **values) -> logging.LogRecord:
    """A record as Snakemake's own logger makes it."""
    return logging.makeLogRecord({"msg": message, "levelno": level, "event": event, **values})


def training(number: int, run: str, log: str) -> logging.LogRecord:
    wildcards = {"run": run, "split": 2, "seed": 0}
    return record(LogEvent.JOB_INFO, jobid=number, rule_name="train_student", wildcards=wildcards, log=[log])


@pytest.mark.parametrize(
    ("rule", "wildcards", "words"),
    [
        ("train_student", {"run": "cutmix", "split": "2", "seed": "0"}, "training cutmix, split 2, seed 0"),
        ("figure_two_sides", {}, "drawing two_sides"),
        ("table_ablation", None, "making the table ablation"),
        ("download_dataset", {"dataset": "cifar10"}, "fetching cifar10"),
        ("a_rule_of_yours", {}, "a rule of yours"),
    ],
)
def test_what_a_job_does_is_said_in_words(rule, wildcards, words):
    assert screen.doing(rule, wildcards) == words


def test_progress_and_running_jobs_follow_the_records(tmp_path):
    log = tmp_path / "train.log"
    log.write_text("cutmix: epoch 1/150: loss 2.3\ncutmix: epoch 34/150: loss 1.2, 0.5 s per epoch\n")
    jobs = screen.Jobs(nothing_to_do=lambda: None)
    assert jobs.status() == ""
    assert jobs.filter(training(7, "cutmix", str(log)))
    assert jobs.filter(training(8, "ce", str(tmp_path / "none.log")))
    assert jobs.status() == "training cutmix, split 2, seed 0, epoch 34/150; training ce, split 2, seed 0"
    jobs.began -= 100
    assert not jobs.filter(record(LogEvent.PROGRESS, done=50, total=100))
    assert not jobs.filter(record(LogEvent.JOB_FINISHED, job_id=7))
    assert jobs.status() == "50/100, 100 s left: training ce, split 2, seed 0".replace("100 s", "2 min")


def test_snakemakes_repeated_words_about_a_signal_are_said_once():
    jobs = screen.Jobs(nothing_to_do=lambda: None)
    words = "Will exit after finishing currently running jobs (scheduler)."
    assert [jobs.filter(record(message=words)) for _ in range(8)] == [True] + [False] * 7


def test_only_interruptions_are_no_error(tmp_path):
    logs = {name: tmp_path / f"{name}.log" for name in ("stopped", "broken")}
    logs["stopped"].write_text("error: stopped by a signal in epoch 3; run again to resume\n")
    logs["broken"].write_text("error: the disk is full\n")
    jobs = screen.Jobs(nothing_to_do=lambda: None)
    assert not jobs.filter(record(LogEvent.JOB_ERROR, jobid=1, log=[logs["stopped"]]))
    assert len(jobs.reasons()) == 1
    assert jobs.reasons()[0].startswith("interrupted: ")
    assert jobs.filter(record(LogEvent.JOB_ERROR, jobid=2, log=[logs["broken"]]))
    assert jobs.reasons()[-1] == "error: the disk is full"
    # a further attempt of the second succeeds
    assert not jobs.filter(record(LogEvent.JOB_FINISHED, job_id=2))
    assert len(jobs.reasons()) == 1


def test_ctrl_c_before_any_job_fails_is_an_interruption():
    jobs = screen.Jobs(nothing_to_do=lambda: None)
    assert jobs.reasons()[0].startswith("The workflow stopped at an error")
    jobs.filter(record(message="Terminating processes on user request, this might take some time."))
    assert [reason.split(":")[0] for reason in jobs.reasons()] == ["interrupted"]
    assert not jobs.filter(record(message="Elapsed time: 0:00:00.754605"))


def everything(terminal: int) -> str:
    """What was written to a terminal whose other end is closed."""
    read = b""
    with os.fdopen(terminal, "rb", buffering=0) as stream, contextlib.suppress(OSError):  # its end is an error on Linux
        while part := stream.read(4096):
            read += part
    return read.decode()


@pytest.mark.parametrize("columns", [40, 100, 400])
def test_a_terminal_has_lines_and_one_below_that_is_taken_away(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(screen, "REFRESH_SECONDS", 0.01)
    leader, follower = pty.openpty()
    log = logging.Logger("test")
    with os.fdopen(follower, "w") as stream:
        before = logging.StreamHandler(stream)
        before.name, before.nocolor = "DefaultStreamHandler", False
        before.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(before)
        jobs = screen.Jobs(nothing_to_do=lambda: None)
        terminal = screen.take_over(log, jobs, {"TERM": "xterm"})
        for handled in (
            training(1, "cutmix", "results/digits/logs/split2_seed0_cutmix_train.log"),
            record(message="a"),
        ):
            log.handle(handled)
        jobs.filter(record(LogEvent.PROGRESS, done=1, total=4))
        time.sleep(0.05)
        log.handle(record(message="full disk", level=logging.ERROR))
        terminal.finish()
        log.handle(record(message="after"))
    text = everything(leader)
    line, *rest = text.replace("\r\n", "\n").split("\n")
    assert line.endswith("log: results/digits/logs/split2_seed0_cutmix_train.log") == (columns > 40)
    assert ("logs are in results/digits/logs" in rest) == (columns <= 40)
    assert "training cutmix, split 2, seed 0" in line
    assert rest[-1] == ""
    shown = [part for row in rest for part in row.split(screen.CLEAR) if "left: training" in part]
    assert shown
    assert all(len(part) < columns for part in shown)
    assert f"{screen.CLEAR}\x1b[31mfull disk\x1b[0m\n" in text.replace("\r\n", "\n")
    assert text.replace("\r\n", "\n").endswith(f"{screen.CLEAR}after\n")


def test_without_a_terminal_lines_carry_the_progress(tmp_path):
    log = logging.Logger("test")
    with open(tmp_path / "screen.txt", "w", encoding="utf-8") as stream:
        before = logging.StreamHandler(stream)
        before.name = "DefaultStreamHandler"
        before.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(before)
        jobs = screen.Jobs(nothing_to_do=lambda: None)
        assert screen.take_over(log, jobs) is None
        jobs.done, jobs.total = 1, 3
        log.handle(training(1, "ce", "ce.log"))
    text = (tmp_path / "screen.txt").read_text()
    assert re.fullmatch(r"\[..:..:..\] 1/3, 0 s left: training ce, split 2, seed 0; log: ce.log\n", text)

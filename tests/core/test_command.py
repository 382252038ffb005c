"""How commands end: one line and a documented status, whatever happens; the trace goes to a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import REPOSITORY

ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
PROGRAM = """
import sys, errno
from openset_distill.core.command import run
from openset_distill.core.errors import OpenSetError
def main():
    {body}
run(main)
"""


def end(body: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src"), "TMPDIR": str(folder)} | variables
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=60)


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ("return", 0, None),
        ("return 3", 3, None),
        ("raise OpenSetError('a is wrong')", 2, "^error: a is wrong$"),
        ("raise OpenSetError('a\\udce9')", 2, r"^error: a\\xe9$"),
        ("1 / 0", 1, "^error: unexpected ZeroDivisionError: division by zero; this is a defect.*trace is in /"),
        ("raise KeyboardInterrupt", 130, "^error: interrupted; "),
        ("raise MemoryError", 2, "^error: not enough memory; "),
        ("open('/proc/nothing/x', 'w')", 2, "^error: /proc/nothing/x: No such file or directory; check the path"),
        ("raise OSError(errno.ENOSPC, 'No space left on device', 'a')", 2, "^error: a: No space left.*free some space"),
        ("import no_such_package", 2, "^error: the package no_such_package is not installed; "),
        ("raise RuntimeError('two\\nlines')", 1, "^error: unexpected RuntimeError: two lines; "),
    ],
)
def test_every_end_is_one_line(body, status, line, tmp_path):
    process = end(body, tmp_path)
    assert process.returncode == status, process.stderr
    lines = process.stderr.splitlines()
    assert len(lines) == (line is not None)
    if line:
        assert re.search(line, lines[0]), lines[0]


def test_the_trace_is_kept_where_the_line_says(tmp_path):
    (tmp_path / ".snakemake").mkdir()
    process = end("1 / 0", tmp_path)
    kept = tmp_path / re.search(r"trace is in (\S+)", process.stderr)[1]
    assert kept.parent == tmp_path / ".snakemake" / "log"
    assert "ZeroDivisionError" in kept.read_text()


def test_a_reader_that_leaves_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body="print('x' * 10_000_000)")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


def test_ctrl_c_is_one_line():
    body = "print('ready', flush=True); import time; time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("error: interrupted")
    assert errors.count("\n") == 1

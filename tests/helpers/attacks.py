"""Attacks as data: a case is read from a table, run for real, and its end is judged.

A case is a mapping in one of `tests/attacks/cases/*.yaml`; docs/robustness.md explains its keys.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import re
import resource
import runpy
import shlex
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from checkout import checkout
from commands import REPOSITORY

from openset_distill.report.tidy import write_checksums

TABLES = REPOSITORY / "tests" / "attacks" / "cases"
ENDS = ("clear_error", "accepted", "usage")
LIMIT_SECONDS = 90
# longer than any message that has a line for each of a handful of problems
MOST_LINES = 14
# of Linux: what lets root pass over the modes of files
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


@dataclass(frozen=True)
class Case:
    """One attack.

    Attributes:
        run: the command line; its first word is `openset`, `snakemake`, `sh` or the name of a script.
        end: how it must end, one of `ENDS`.
        line: regular expression that the last line of the error must match.
        because: why an odd input is rightly accepted; required for `accepted`.
        materials: what is copied into the case's folder.
        files: path -> text to write there, or `{hex: ...}`, or `{link: target}`, or null for a folder.
        damage: changes to files that are there (`attacks.damage`).
        env, limits: variables and resource limits of a process of its own.
        obeys_modes: modes of files bind root, too. read_only: folders that nobody may write.
        disk_kib: size of a file system mounted at `disk/`. serve: what a server at ADDRESS answers.
        absent: files that must not be there afterwards.
    """

    name: str
    family: str
    run: str
    end: str
    line: str = ""
    because: str = ""
    materials: tuple[str, ...] = ()
    files: Mapping[str, Any] = field(default_factory=dict)
    damage: tuple[Mapping[str, Any], ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    obeys_modes: bool = False
    read_only: tuple[str, ...] = ()
    disk_kib: int = 0
    serve: Mapping[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether it needs a process of its own."""
        special = self.env or self.limits or self.obeys_modes or self.read_only or self.disk_kib
        return bool(special) or self.run.split()[0] in ("snakemake", "sh")


def read_cases() -> list[Case]:
    """All cases of all tables, in order; a table may define short forms of command lines under `commands`."""
    cases = []
    for path in sorted(TABLES.glob("*.yaml")):
        # LONG stands for a word of 300 letters
        table = yaml.safe_load(path.read_text(encoding="utf-8").replace("LONG", 300 * "r"))
        short = table.get("commands", {})
        common = table.get("common", {})
        for entry in table["cases"]:
            merged = {**common, **entry}
            for name in sorted(short, key=len, reverse=True):
                merged["run"] = merged["run"].replace(f"${name}", short[name])
            for key in ("materials", "damage", "absent", "read_only"):
                merged[key] = tuple(merged.get(key, ()))
            case = Case(family=path.stem, **merged)
            assert case.end in ENDS, case
            assert (case.end == "accepted") == bool(case.because), (
                f"{case.name}: accepted needs its reason, others none"
            )
            cases.append(case)
    names = [f"{case.family}: {case.name}" for case in cases]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
    return cases


# ------------------------------------------------------------------------------------------------ setting up


def set_up(case: Case, folder: Path, materials: Mapping[str, Path]) -> None:
    """Makes the case's folder: links to the project's files, copies of materials, and what the case writes itself."""
    checkout(folder)
    for name in case.materials:
        shutil.copytree(materials[name], folder / name, symlinks=True)
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif "hex" in content:
            path.write_bytes(bytes.fromhex(content["hex"]))
        else:
            path.symlink_to(content["link"])
    for change in case.damage:
        damage(folder / change["file"], **{key: value for key, value in change.items() if key != "file"})


def damage(path: Path, do: str, **how: Any) -> None:
    """One change of a file, as a fault or a user's editor would leave it."""
    if do == "remove":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    elif do == "hide":
        path.chmod(0)
    elif do == "copy":
        root = next(parent for parent in path.parents if (parent / "Snakefile").exists())
        shutil.copy2(path, root / how["to"])
    elif do == "rename":
        os.rename(path, os.fsencode(path.with_name(how["to"])) + bytes.fromhex(how.get("bytes", "")))
    elif do == "empty":
        path.write_bytes(b"")
    elif do == "cut":
        path.write_bytes(path.read_bytes()[: how.get("to", path.stat().st_size // 2)])
    elif do == "lose_lines":  # the file ends too early, at a line's end
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[: how.get("keep", len(lines) // 2)]))
    elif do == "record":  # as the rule that makes the tidy tables does
        write_checksums(path, sorted(table.name for table in path.glob("*.csv")))
    elif do == "flip":
        content = bytearray(path.read_bytes())
        at = how.get("at", len(content) // 2)
        content[at : at + 8] = bytes(byte ^ 0xFF for byte in content[at : at + 8])
        path.write_bytes(bytes(content))
    elif do == "write":
        path.write_text(how["text"], encoding="utf-8")
    elif do == "bytes":
        path.write_bytes(bytes.fromhex(how["hex"]))
    elif do == "replace":
        text = path.read_text(encoding="utf-8")
        assert how["old"] in text, f"{path} has no {how['old']!r}"
        path.write_text(text.replace(how["old"], how["new"]), encoding="utf-8")
    elif do == "encode":
        path.write_bytes(path.read_text(encoding="utf-8").encode(how["as"]))
    elif do == "folder":
        path.unlink(missing_ok=True)
        path.mkdir()
    elif do == "fifo":
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    elif do == "dangle":
        path.unlink(missing_ok=True)
        path.symlink_to("nowhere")
    elif do == "loop":
        path.unlink(missing_ok=True)
        path.symlink_to(path.name)
    elif do == "json":
        value = json.loads(path.read_text(encoding="utf-8"))
        place = value
        *keys, last = how["key"]
        for key in keys:
            place = place[key]
        if "drop" in how:
            del place[last]
        else:
            place[last] = how["value"]
        path.write_text(json.dumps(value), encoding="utf-8")
    elif do == "arrays":
        with np.load(path) as stored:
            arrays = dict(stored)
        for name in how.get("drop", ()):
            del arrays[name]
        for name, change in how.get("set", {}).items():
            arrays[name] = _changed(arrays.get(name), change)
        with open(path, "wb") as stream:
            np.savez(stream, **arrays)
    elif do == "array":
        np.save(path, _changed(np.load(path), how["to"]))
    else:
        raise ValueError(do)


def _changed(array: np.ndarray | None, change: str) -> np.ndarray:
    """An array as a short word says: its type, its length, its values."""
    word, _, value = change.partition("=")
    if word == "text":
        return np.array([value])
    if word == "pickle":
        return np.array([{"a": 1}], dtype=object)
    assert array is not None
    if word == "type":
        return array.astype(value)
    if word == "half":
        return array[: len(array) // 2]
    if word == "none":
        return array[:0]
    if word == "add":
        return array + int(value)
    if word == "fill":
        return np.full_like(array, float(value) if array.dtype.kind == "f" else int(value))
    if word == "flat":
        return array.reshape(-1)
    if word == "deep":
        return array[None]
    raise ValueError(change)


# ---------------------------------------------------------------------------------------------- running


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its status, and what it wrote."""

    status: int
    output: str
    errors: str

    def __post_init__(self) -> None:
        for name in ("output", "errors"):
            object.__setattr__(self, name, re.sub(r"\x1b\[[0-9;]*m", "", getattr(self, name)))

    @property
    def last_line(self) -> str:
        """The error's own line: the last that begins with `error:` and what follows it, or the last line at all."""
        lines = [line for line in self.errors.splitlines() if line.strip()] or self.output.splitlines() or [""]
        starts = [
            number for number, line in enumerate(lines) if "error:" in line[:40] or line.startswith("WorkflowError")
        ]
        return " ".join(line.strip() for line in lines[starts[-1] :]) if starts else lines[-1]

    @property
    def end(self) -> str:
        """`accepted`, `usage`, `clear_error`, or what must never be: `traceback`, `defect`, `no_end`, `lines`."""
        text = self.output + self.errors
        if "Traceback (most recent call last)" in text:
            return "traceback"
        if self.status in (124, 137, -signal.SIGKILL, -signal.SIGALRM):
            return "no_end"
        if "this is a defect of the program" in text:
            return "defect"
        if self.status == 0:
            return "accepted"
        if "usage:" in self.errors:
            return "usage"
        starts = [line for line in self.errors.splitlines() if re.match(r"error: |Error: |make: |WorkflowError", line)]
        if not starts:
            return "silent"
        if len(self.errors.split(starts[-1])[-1].splitlines()) > MOST_LINES:
            return "lines"
        return "clear_error"


def run(case: Case, folder: Path) -> Outcome:
    """Runs the case's command in its folder."""
    words = [word.replace("ADDRESS", _ADDRESS[-1] if _ADDRESS else "") for word in shlex.split(case.run)]
    words = [word.replace("$ROOT", str(folder)) for word in words]
    return _process(case, words, folder) if case.alone else in_process(words, folder)


def command_of(words: list[str]) -> list[str]:
    """The words as a process gets them."""
    name, *rest = words
    if name == "openset":
        return [sys.executable, "-c", "from openset_distill.cli import main; main()", *rest]
    if name == "snakemake":
        return [sys.executable, "-m", "snakemake", *rest]
    if name == "sh":
        return ["bash", "-c", *rest]
    return [sys.executable, str(_script(name)), *rest]


def _script(name: str) -> Path:
    places = [REPOSITORY / folder / name for folder in ("workflow_scripts", "tools")]
    return next(place for place in places if place.exists())


def in_process(words: list[str], folder: Path) -> Outcome:
    """Runs a command through its own entry in this process: the same code, without the seconds of a start."""
    output, errors = io.StringIO(), io.StringIO()
    before, argv, path, handlers = Path.cwd(), sys.argv, list(sys.path), {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM):
        handlers[number] = signal.getsignal(number)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT_SECONDS)
    status: int = 0
    try:
        os.chdir(folder)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                if words[0] == "openset":
                    sys.argv = words
                    from openset_distill.cli import main

                    main()
                else:
                    script = _script(words[0])
                    sys.argv = [str(script), *words[1:]]
                    sys.path.insert(0, str(script.parent))  # as Python does for a script
                    runpy.run_path(str(script), run_name="__main__")
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            except _TooLong:
                status = 124
            except BaseException:
                traceback.print_exc(file=errors)
                status = 1
    finally:
        signal.alarm(0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.argv, sys.path[:] = argv, path
        os.chdir(before)
    return Outcome(status, output.getvalue(), errors.getvalue())


class _TooLong(BaseException):
    """A command that ran past the limit; no `except Exception` of its own stops it."""


def _too_long(*_: object) -> None:
    raise _TooLong


def _process(case: Case, words: list[str], folder: Path) -> Outcome:
    environment = {name: value for name, value in os.environ.items() if name != "OPENSET_MIRROR"}
    environment |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]]),
        "PYTHONPATH": str(REPOSITORY / "src"),
        "ROOT": str(folder),
        **{name: value.replace("$ROOT", str(folder)) for name, value in case.env.items()},
    }

    def prepare() -> None:
        for name, most in case.limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
        if case.obeys_modes and os.geteuid() == 0:
            for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
                ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)

    for name in case.read_only:
        (folder / name).chmod(0o555)
    process = subprocess.Popen(
        command_of(words), cwd=folder, env=environment, preexec_fn=prepare, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, errors="backslashreplace",
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=LIMIT_SECONDS)
        if words[0] == "snakemake":  # a dry run's errors are on standard output
            output, errors = "", output + errors
        return Outcome(process.returncode, output, errors)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        return Outcome(124, output, errors)


_ADDRESS: list[str] = []


@contextlib.contextmanager
def answering(serve: Mapping[str, Any]) -> Iterator[None]:
    """A server that answers every request in one way; ADDRESS in a command line is where it is."""
    if not serve:
        yield
        return
    answer = serve.get("raw")
    if answer is None:
        body = serve.get("body", "")
        headers = {"Content-Length": str(len(body)), **serve.get("headers", {})}
        lines = [f"HTTP/1.1 {serve.get('status', 200)} words", *(f"{name}: {value}" for name, value in headers.items())]
        answer = "\r\n".join([*lines, "Connection: close", "", body])

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(5)
            with contextlib.suppress(OSError):
                self.request.recv(65536)
                self.request.sendall(answer.encode("latin-1"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        _ADDRESS.append(f"http://127.0.0.1:{server.server_address[1]}/")
        try:
            yield
        finally:
            _ADDRESS.pop()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def surroundings(case: Case, folder: Path) -> Iterator[None]:
    """A server, or a small disk under `disk/`, where the case asks for one; only root may mount it."""
    if not case.disk_kib:
        with answering(case.serve):
            yield
        return
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={case.disk_kib}k", "tmpfs", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", disk], check=True)


def judged(case: Case, outcome: Outcome) -> str:
    """What is wrong with the outcome; empty where it is as the case wants it."""
    if outcome.end != case.end:
        return f"ended as {outcome.end}, not as {case.end}"
    if case.line and not re.search(
        case.line, outcome.last_line if case.end == "clear_error" else outcome.errors + outcome.output
    ):
        return f"does not match {case.line!r}: {outcome.last_line}"
    return ""

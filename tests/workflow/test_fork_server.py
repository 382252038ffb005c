"""Short jobs are forked from a process that has their imports, and are what a plain process would be."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest
from commands import REPOSITORY
from small_repository import BIN, copy_of_the_repository

from openset_distill.config.experiment import load
from openset_distill.config.loading import read_configuration

SERVER = REPOSITORY / "workflow_scripts" / "fork_server.py"
# what every job here says of itself
JOB = """
import json, os, sys
print("a line of the log", file=sys.stderr)
told = {"words": sys.argv, "folder": os.getcwd(), "environment": dict(os.environ), "pid": os.getpid(),
        "parent": os.getppid(), "path": sys.path[0], "name": __name__,
        "imported": [name for name in sys.modules if name.startswith("openset_distill.core")]}
print(json.dumps(told), flush=True)
"""
# waits for a signal, and says which one came
WAITING = """
import signal, time
came = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: came.append(number))
print("waiting", flush=True)
while not came:
    time.sleep(0.01)
time.sleep(0.3)  # another one would come by now
print(*map(int, came), flush=True)
sys.exit(7)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository of this server, of scripts that say what they are, and of a library of one module."""
    (tmp_path / "workflow_scripts").mkdir()
    shutil.copy(SERVER, tmp_path / "workflow_scripts")
    scripts = {"evaluate": "", "split": WAITING, "train": WAITING, "feature_geometry": "sys.exit('no such thing')"}
    for name, more in scripts.items():
        (tmp_path / "workflow_scripts" / f"{name}.py").write_text(JOB + more)
    library = tmp_path / "src" / "openset_distill" / "core"
    library.mkdir(parents=True)
    for path in (library.parent / "__init__.py", library / "__init__.py", library / "command.py"):
        path.touch()
    return tmp_path


# starts the servers as the Snakefile does, says where they are, and ends with its standard input
STARTER = """
import os, sys
sys.path.insert(0, "workflow_scripts")
import fork_server
print(fork_server.start_servers(os.environ), *(server.pid for server in fork_server._servers), flush=True)
sys.stdin.read()
"""


def environment_of(folder: Path, **more: str) -> dict[str, str]:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"} | more


@pytest.fixture
def servers(folder: Path) -> Iterator[SimpleNamespace]:
    """The process that stands for Snakemake, the folder of the sockets, and the processes of the servers."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER],
        cwd=folder,
        env=environment_of(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    sockets, *numbers = process.stdout.readline().split()
    own = [psutil.Process(int(number)) for number in numbers]
    yield SimpleNamespace(process=process, sockets=Path(sockets), own=own)
    process.communicate(timeout=60)
    gone(*own)
    assert not Path(sockets).exists()


def gone(*processes: psutil.Process) -> None:
    """Waits until the processes have ended, zombies included."""
    deadline = time.monotonic() + 60
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
        assert time.monotonic() < deadline, processes
        time.sleep(0.02)


def start(folder: Path, sockets: Path | str, script: str, *words: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "workflow_scripts/fork_server.py", f"workflow_scripts/{script}.py", *words],
        cwd=folder,
        env=environment_of(folder, OPENSET_FORK_SERVERS=str(sockets), **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def told(process: subprocess.Popen[str]) -> dict:
    """What a job says of itself, which it may go on after."""
    assert process.stdout
    return json.loads(process.stdout.readline())


def is_forked(process: subprocess.Popen[str], said: dict, servers: SimpleNamespace) -> bool:
    return said["pid"] != process.pid and said["parent"] in {server.pid for server in servers.own}


def test_a_forked_job_is_what_a_plain_process_would_be(folder, servers):
    words = ("--job", '{"text": "two words, ä"}', "", "--x=1")
    forked = start(folder, servers.sockets, "evaluate", *words, HERE="only\nhere")
    said = told(forked)
    assert is_forked(forked, said, servers)
    assert "openset_distill.core.command" in said["imported"]
    plain = subprocess.run(
        [sys.executable, "workflow_scripts/evaluate.py", *words],
        cwd=folder,
        env=environment_of(folder, HERE="only\nhere"),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = json.loads(plain.stdout)
    del said["environment"]["OPENSET_FORK_SERVERS"]
    assert {key: said[key] for key in ("words", "folder", "environment", "path", "name")} == {
        key: expected[key] for key in ("words", "folder", "environment", "path", "name")
    }
    assert forked.communicate(timeout=60)[1] == plain.stderr
    assert forked.returncode == 0


def test_the_second_job_of_a_family_has_the_same_server_and_fails_in_its_own_words(folder, servers):
    first = start(folder, servers.sockets, "evaluate")
    second = start(folder, servers.sockets, "feature_geometry")
    assert told(first)["parent"] == told(second)["parent"]
    assert second.communicate(timeout=60)[1] == "a line of the log\nno such thing\n"
    assert second.returncode == 1
    first.communicate(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_the_job_once(folder, servers, number):
    process = start(folder, servers.sockets, "split")
    assert is_forked(process, told(process), servers)
    assert process.stdout
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == f"{int(number)}\n"
    assert process.returncode == 7


def test_a_job_stops_and_continues_with_its_client(folder, servers):
    process = start(folder, servers.sockets, "split")
    job = psutil.Process(told(process)["pid"])
    for number, stopped in ((signal.SIGTSTP, True), (signal.SIGCONT, False)):
        process.send_signal(number)
        deadline = time.monotonic() + 60
        while (job.status() == psutil.STATUS_STOPPED) != stopped:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=60) == 7


def test_a_killed_job_ends_as_a_shell_reports_it(folder, servers):
    process = start(folder, servers.sockets, "split")
    os.kill(told(process)["pid"], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL


def test_a_job_is_killed_with_its_client(folder, servers):
    process = start(folder, servers.sockets, "split")
    job = psutil.Process(told(process)["pid"])
    process.kill()
    process.communicate(timeout=60)
    gone(job)
    assert all(server.is_running() for server in servers.own)


def test_a_job_is_killed_with_its_server_and_says_so(folder, servers):
    process = start(folder, servers.sockets, "split")
    said = told(process)
    job = psutil.Process(said["pid"])
    os.kill(said["parent"], signal.SIGKILL)
    errors = process.communicate(timeout=60)[1]
    gone(job)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("error: the process that started this job was killed")
    shutil.rmtree(servers.sockets)  # which the killed one could not


def test_jobs_go_on_where_snakemake_was_killed_and_the_servers_end_with_them(folder, servers):
    process = start(folder, servers.sockets, "train", "--weights", "results/digits/split0/seed0/ce/weights.safetensors")
    said = told(process)
    servers.process.kill()
    servers.process.wait(timeout=60)
    others = [server for server in servers.own if server.pid != said["parent"]]
    gone(*others)
    assert psutil.pid_exists(said["pid"])
    late = start(folder, servers.sockets, "evaluate")
    assert told(late)["pid"] == late.pid, "a plain process"
    late.communicate(timeout=60)
    doctor = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "doctor.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert f"process {process.pid} still trains results/digits/split0/seed0/ce" in doctor.stderr
    assert str(said["pid"]) not in doctor.stderr, "once, by the process that passes signals on"
    process.terminate()
    assert process.wait(timeout=60) == 7


def test_ctrl_c_before_the_job_has_begun_is_one_line(folder, servers):
    for server in servers.own:
        server.suspend()
    process = start(folder, servers.sockets, "evaluate")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    for server in servers.own:
        server.resume()
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    source = (REPOSITORY / "src/openset_distill/core/command.py").read_text()
    assert errors.removeprefix("error: ").strip() in source, "the words of every other job"


def test_another_environment_is_a_plain_process(folder, servers):
    first = start(folder, servers.sockets, "evaluate")
    assert is_forked(first, told(first), servers)
    second = start(folder, servers.sockets, "evaluate", OMP_NUM_THREADS="2")
    said = told(second)
    assert said["pid"] == second.pid
    assert said["environment"]["OMP_NUM_THREADS"] == "2"
    assert not said["imported"]
    first.communicate(timeout=60)
    second.communicate(timeout=60)


def test_a_changed_library_is_imported_anew(folder, servers):
    first = start(folder, servers.sockets, "evaluate")
    assert is_forked(first, told(first), servers)
    first.communicate(timeout=60)
    (folder / "src/openset_distill/core/command.py").write_text("changed = True\n")
    second = start(folder, servers.sockets, "evaluate")
    assert told(second)["pid"] == second.pid
    second.communicate(timeout=60)


@pytest.mark.parametrize("sockets", ["", "/nonexistent", "."])
def test_without_a_server_a_job_is_a_plain_process(folder, sockets):
    process = start(folder, sockets, "evaluate", "word")
    said = told(process)
    assert (said["pid"], said["words"]) == (process.pid, ["workflow_scripts/evaluate.py", "word"])
    process.communicate(timeout=60)


def test_no_place_for_sockets_is_an_error_that_leaves_nothing(folder, tmp_path):
    deep = tmp_path / ("long" * 30)
    deep.mkdir()
    process = subprocess.run(
        [sys.executable, "-c", STARTER],
        cwd=folder,
        env=environment_of(folder, TMPDIR=str(deep)),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert "OSError: AF_UNIX path too long" in process.stderr
    assert not list(deep.iterdir())


@pytest.fixture
def fork_server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, as the Snakefile imports it."""
    monkeypatch.syspath_prepend(SERVER.parent)
    return importlib.import_module("fork_server")


def test_what_a_family_shares_exists(fork_server):
    """A name that is not there would be passed over: each job would import it itself."""
    for scripts, modules in fork_server.FAMILIES.values():
        assert all((SERVER.parent / script).is_file() for script in scripts)
        assert all(importlib.util.find_spec(module) for module in modules)


def test_the_experiments_of_small_images_are_forked_alone(fork_server):
    own = {path.stem: path for path in (REPOSITORY / "config/experiments").glob("*.yaml") if path.stem[0] != "_"}
    for name in ("tinyimagenet_cpu", "mnist", "cifar10_fast"):
        assert not fork_server.worthwhile(load(read_configuration(own[name]), stands_alone=True))
    assert fork_server.worthwhile(load({}, stands_alone=False, default=REPOSITORY / "config/config.yaml"))


def test_the_workflow_forks_its_jobs_and_leaves_no_process(tmp_path):
    folder = copy_of_the_repository(tmp_path / "repository")
    wrapper = tmp_path / "bin" / "python"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/started\nexec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    environment = environment_of(folder) | {"TMPDIR": str(tmp_path)}
    environment["PATH"] = f"{wrapper.parent}{os.pathsep}{environment['PATH']}"
    process = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "results/digits/split0/seed0/split.npz"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    started = (tmp_path / "started").read_text().splitlines()
    families = [line.split()[2] for line in started if "--serve" in line]
    assert sorted(families) == ["embedding", "networks", "outputs", "pictures"]
    clients = [line for line in started if line.startswith("-I -S")]
    assert [line.split()[3] for line in clients] == [
        f"workflow_scripts/{name}.py" for name in ("download", "prepare", "split")
    ]
    plain = [line.split()[0] for line in started if line.startswith("workflow_scripts/")]
    assert plain == ["workflow_scripts/download.py", "workflow_scripts/prepare.py"], "which belong to no family"
    gone(*(one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or [])))
    assert not list(tmp_path.glob("openset-*"))

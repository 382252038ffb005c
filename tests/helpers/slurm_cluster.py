"""A real SLURM cluster of one node on the loopback interface, for the tests.

    python tests/slurm_cluster.py start FOLDER   # writes what it needs into FOLDER, prints the variables to export
    python tests/slurm_cluster.py stop FOLDER

Everything (keys, configuration, database, logs) lies in FOLDER. `start` on a running cluster changes nothing. The
daemons come from the packages of `PACKAGES`; they need neither systemd nor cgroups, and are stopped by their own
process numbers. The node claims more than the machine has, so that a small machine can run the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("slurm-wlm", "slurmdbd", "mariadb-server", "munge")
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd")
ACCOUNT = "openset"
# stopped in this order
DAEMONS = ("slurmd", "slurmctld", "slurmdbd", "mariadbd", "munged")
START_SECONDS = 60

SLURM_CONF = """
ClusterName=openset
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny
SlurmctldPort={slurmctld_port}
SlurmdPort={slurmd_port}
SrunPortRange=60001-63000
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits,qos
AccountingStoreFlags=job_comment
AccountingStorageTRES=gres/gpu,gres/shard
# without cgroups: memory is measured each second, and a job that takes more than it asked for is ended
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=20
SchedulerParameters=sched_interval=5,bf_interval=5
SlurmdParameters=config_overrides
# a GPU that four jobs may share
GresTypes=gpu,shard
# jobs of the partition `urgent` push those of `batch` aside, which then wait for their turn again
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 Gres=gpu:a-100:1,shard:4 State=UNKNOWN
PartitionName=batch Nodes={host} Default=YES MaxTime=1440 PriorityTier=1 GraceTime=20
PartitionName=spot Nodes={host} MaxTime=1440 PriorityTier=1 PreemptMode=CANCEL
PartitionName=short Nodes={host} MaxTime=5 PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=1440 PriorityTier=2
"""

SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={slurmdbd_port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
LogFile={folder}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct_db
"""


class ClusterError(Exception):
    """The cluster cannot be started; the message says why and what helps."""


def missing_programs() -> list[str]:
    """The daemons' programs that this machine lacks."""
    return [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]


def how_to_install() -> str:
    """For messages: what is missing, and the command that installs it."""
    return (
        f"SLURM is not installed here ({', '.join(missing_programs())} not found); as root: "
        f"apt-get update && apt-get install --no-install-recommends {' '.join(PACKAGES)}"
    )


def _path() -> str:
    # Debian keeps daemons where an ordinary user's PATH does not look
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])


def environment(folder: Path) -> dict[str, str]:
    """The variables with which SLURM's commands, and Snakemake, find this cluster."""
    path = os.pathsep.join([str(folder / "bin"), _path()])
    # its GPU is a name without hardware: what asks for it computes on the CPU
    return os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path, "OPENSET_DEVICE": "cpu"}


def command(folder: Path, *arguments: str, timeout: float = 60) -> str:
    """What one of SLURM's commands prints; it must succeed."""
    process = subprocess.run(arguments, env=environment(folder), capture_output=True, text=True, timeout=timeout)
    if process.returncode:
        raise ClusterError(f"{' '.join(arguments)}: {process.stdout}{process.stderr}")
    return process.stdout


def start(folder: Path) -> None:
    """Starts what is not running yet, and returns when a job could be submitted.

    Raises:
        ClusterError: a program is missing, or a daemon did not come up within a minute.
    """
    if missing_programs():
        raise ClusterError(how_to_install())
    folder = folder.resolve()
    if not (folder / "slurm.conf").exists():
        _write_configuration(folder)
    database = folder / "database"
    if not (database / "mysql").exists():
        _run(folder, "mariadb-install-db", f"--datadir={database}", f"--user={getpass.getuser()}", "--skip-test-db")
    daemons: dict[str, tuple[list[str], Callable[[], bool]]] = {
        "munged": (
            ["munged", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key",
             f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"],
            lambda: _answers(folder, "munge", "--no-input", f"--socket={folder}/munge.socket"),
        ),
        "mariadbd": (
            ["mariadbd", "--no-defaults", f"--datadir={database}", "--skip-networking", f"--user={getpass.getuser()}",
             f"--socket={folder}/mariadb.socket", f"--pid-file={folder}/mariadbd.pid",
             f"--log-error={folder}/mariadbd.log", "--innodb-lock-wait-timeout=900"],
            lambda: _answers(folder, "mariadb-admin", "--no-defaults", f"--socket={folder}/mariadb.socket", "ping"),
        ),
        "slurmdbd": (["slurmdbd"], lambda: _answers(folder, "sacctmgr", "--noheader", "show", "cluster")),
        "slurmctld": (["slurmctld"], lambda: _answers(folder, "scontrol", "ping")),
        "slurmd": (["slurmd"], lambda: _node_is_up(folder)),
    }  # fmt: skip
    for name, (program, is_up) in daemons.items():
        if _process(folder, name) is None:
            with open(folder / f"{name}.out", "ab") as output:
                # mariadbd alone stays in the foreground
                subprocess.Popen(
                    program, env=_daemon_environment(folder), stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                    start_new_session=True, cwd=folder,
                )  # fmt: skip
        _wait(folder, name, is_up)
        if name == "slurmdbd":
            _add_account(folder)


def stop(folder: Path) -> None:
    """Ends the daemons of this folder, and only those, by their process numbers."""
    folder = folder.resolve()
    if _process(folder, "slurmctld"):
        # steps of jobs are processes of their own: end them while there is somebody who knows them
        cancel_jobs(folder)
    for name in DAEMONS:
        number = _process(folder, name)
        if number is None:
            continue
        os.kill(number, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while _process(folder, name) is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        if _process(folder, name) is not None:
            os.kill(number, signal.SIGKILL)
    for number in _left_over(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _left_over(folder: Path) -> list[int]:
    """Processes of this cluster's jobs that outlived it: without cgroups SLURM may lose sight of one."""
    mark, left = f"SLURM_CONF={folder}/slurm.conf".encode(), []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            variables = (process / "environ").read_bytes().split(b"\0") if process.name.isdigit() else []
            if mark in variables and any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables):
                left.append(int(process.name))
    return left


def cancel_jobs(folder: Path) -> None:
    """Cancels whatever waits or runs, and returns when it has ended."""
    subprocess.run(["scancel", f"--user={getpass.getuser()}"], env=environment(folder), capture_output=True, timeout=30)
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and _queue(folder):
        time.sleep(0.5)


def resume(folder: Path, node: str) -> None:
    """Brings a node back that was set down. It may have come back by itself, which `scontrol` calls an error."""
    resumed = ["scontrol", "update", f"nodename={node}", "state=resume"]
    subprocess.run(resumed, env=environment(folder), capture_output=True, timeout=30)
    _wait(folder, "slurmd", lambda: _node_is_up(folder))


def begins(folder: Path, number: str, node: str) -> bool:
    """Whether a job that waits for its next turn has got it. If not, asks for it at once. A job that came before the
    node had cleared up is held and the node drained: both are undone."""
    state = command(folder, "squeue", "--noheader", f"--jobs={number}", "--states=all", "--format=%T").strip()
    if state != "PENDING":
        return True
    resume(folder, node)
    for wish in (["release", number], ["update", f"jobid={number}", "starttime=now"]):
        # it may have begun meanwhile, which `scontrol` calls an error
        subprocess.run(["scontrol", *wish], env=environment(folder), capture_output=True, timeout=30)
    return False


def has_steps(number: str) -> bool:
    """Whether the node still clears up after a job. Started again before that, it would fail and drain the node."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and (process / "cmdline").read_bytes().startswith(
                f"slurmstepd: [{number}.".encode()
            ):
                return True
    return False


def _write_configuration(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name in ("state", "spool", "database"):
        (folder / name).mkdir(exist_ok=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    ports = iter(_free_ports(3))
    values = {
        "host": platform.node().split(".")[0],
        "user": getpass.getuser(),
        "folder": folder,
        "slurmctld_port": next(ports),
        "slurmd_port": next(ports),
        "slurmdbd_port": next(ports),
    }
    (folder / "slurmdbd.conf").touch(mode=0o600)
    (folder / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(**values))
    (folder / "gres.conf").write_text(
        f"NodeName={values['host']} Name=gpu Type=a-100 File=/dev/null\nNodeName={values['host']} Name=shard Count=4\n"
    )
    # Snakemake's job step takes SLURM_CONF out of the environment of `srun`, because it expects /etc/slurm
    srun = folder / "bin" / "srun"
    srun.parent.mkdir(exist_ok=True)
    srun.write_text(f'#!/bin/sh\nexport SLURM_CONF="{folder}/slurm.conf"\nexec "{shutil.which("srun")}" "$@"\n')
    srun.chmod(0o755)
    # last: its presence says that the folder is complete
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _daemon_environment(folder: Path) -> dict[str, str]:
    # slurmdbd finds its database by the client library's variable, because its own settings take no path of a socket
    return environment(folder) | {"MYSQL_UNIX_PORT": str(folder / "mariadb.socket")}


def _add_account(folder: Path) -> None:
    for entity in (
        ["cluster", "openset"],
        ["account", ACCOUNT, "Cluster=openset"],
        ["user", getpass.getuser(), f"Account={ACCOUNT}", "Cluster=openset"],
    ):
        subprocess.run(
            ["sacctmgr", "--immediate", "add", *entity], env=environment(folder), capture_output=True, timeout=60
        )


def _run(folder: Path, *arguments: str) -> None:
    process = subprocess.run(arguments, env=_daemon_environment(folder), capture_output=True, text=True, timeout=120)
    if process.returncode:
        raise ClusterError(f"{arguments[0]} failed: {process.stdout}{process.stderr}")


def _answers(folder: Path, *arguments: str) -> bool:
    process = subprocess.run(
        arguments, env=environment(folder), capture_output=True, timeout=30, stdin=subprocess.DEVNULL
    )
    return process.returncode == 0


def _node_is_up(folder: Path) -> bool:
    states = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], env=environment(folder), capture_output=True, text=True, timeout=30
    )
    return states.stdout.split() != [] and set(states.stdout.split()) <= {"idle", "mixed", "allocated"}


def _queue(folder: Path) -> str:
    return subprocess.run(
        ["squeue", "--noheader"], env=environment(folder), capture_output=True, text=True, timeout=30
    ).stdout


def _process(folder: Path, name: str) -> int | None:
    """The process number of a daemon of this folder, if it is running."""
    try:
        number = int((folder / f"{name}.pid").read_text())
        # a number that was given to another program since is not ours
        running = (Path("/proc") / str(number) / "comm").read_text().strip()
        state = (Path("/proc") / str(number) / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    return number if running == name and state != "Z" else None


def _wait(folder: Path, name: str, is_up: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_up():
        if time.monotonic() > deadline:
            logs = [folder / f"{name}.out", folder / f"{name}.log"]
            text = "".join(path.read_text(errors="replace")[-2000:] for path in logs if path.exists())
            raise ClusterError(f"{name} did not come up within {START_SECONDS} s; its log ({logs[1]}) ends:\n{text}")
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "stop"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "stop":
        stop(arguments.folder)
        return
    try:
        start(arguments.folder)
    except ClusterError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"export SLURM_CONF={arguments.folder.resolve()}/slurm.conf PATH={arguments.folder.resolve()}/bin:$PATH")


if __name__ == "__main__":
    main()

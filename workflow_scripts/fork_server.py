"""Forks short jobs from processes that have already imported their modules.

Importing PyTorch takes longer than training a network on the digits. While Snakemake runs such an experiment on this
machine, one server for each of `FAMILIES` waits for jobs. It imports their modules at the first one and forks a child
for each. In the command of a job

    python fork_server.py SCRIPT ARGUMENTS...

replaces `python SCRIPT ARGUMENTS...`. The job has its own process, arguments, environment, standard streams and exit
status. This client stays visible to Snakemake: it passes signals on to the job, and if it is killed, so is the job. If
the job cannot be forked, the client runs the script itself. The servers end with Snakemake, or with the last job if
Snakemake was killed; a job ends with its server.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from openset_distill.config.experiment import Experiment

# scripts that need the same modules, and these modules
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "networks": (
        ("train.py", "cache_teacher_logits.py", "scan_mixing.py", "gradcam.py"),
        (
            "openset_distill.analysis.mixing_scan",
            "openset_distill.core.command",
            "openset_distill.core.provenance",
            "openset_distill.models.checkpoint",
            "openset_distill.report.aggregate",
            "openset_distill.training.run",
            "openset_distill.training.setup",
            "openset_distill.training.teachers",
        ),
    ),
    "outputs": (
        ("split.py", "evaluate.py", "feature_geometry.py"),
        (
            "openset_distill.analysis.feature_geometry",
            "openset_distill.core.command",
            "openset_distill.datasets.protocols",
            "openset_distill.evaluation.detectors",
            "openset_distill.evaluation.thresholds",
            "openset_distill.report.aggregate",
            "scipy.special",
        ),
    ),
    "embedding": (
        ("embed.py",),
        ("openset_distill.analysis.embedding", "openset_distill.core.command", "openset_distill.report.aggregate"),
    ),
    "pictures": (
        ("figure.py", "table.py"),
        ("openset_distill.core.command", "openset_distill.report.figures.style", "openset_distill.report.tables"),
    ),
}
# the folder of the servers' sockets, one for each script
VARIABLE = "OPENSET_FORK_SERVERS"
# a training on images of so few pixels takes seconds, about as long as its imports
SMALL_SIZE = 16
# what a shell sets anew for each command
OF_THE_SHELL = (b"_", b"SHLVL", b"PWD", b"OLDPWD")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
HERE = Path(__file__).resolve()
LENGTH = struct.Struct("!I")
REFUSED, STARTED, ENDED = b"r", b"s", b"e"
REPLY = struct.Struct("!ci")


class Request(NamedTuple):
    """A command to start: its words, its folder, its environment, and its standard streams."""

    words: list[str]
    folder: bytes
    environment: dict[bytes, bytes]
    streams: list[int]


# ---------------------------------------------------------------------------------------- beside Snakemake


def worthwhile(experiment: Experiment) -> bool:
    """Whether the jobs of an experiment are so short that starting them takes most of their time.

    The jobs of others stay children of Snakemake, which records their memory and time.
    """
    return experiment.image_size() <= SMALL_SIZE


def start_servers(environment: Mapping[str, str]) -> str:
    """Starts a server for each family and returns the folder of their sockets, which goes with the last of them.

    The servers wait for the end of this process at the other end of a pipe.

    Raises:
        OSError: there is no place for sockets, or their paths are too long; there are no servers then.
    """
    import subprocess
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="openset-"))
    try:
        for family, (scripts, _) in FAMILIES.items():
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(folder / family))
                listener.listen(512)
                for script in scripts:
                    (folder / script).symlink_to(family)
                _servers.append(
                    subprocess.Popen(
                        ["python", str(HERE), "--serve", family, str(folder), str(listener.fileno())],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        env=dict(environment),
                        pass_fds=[listener.fileno()],
                        start_new_session=True,  # what is sent to Snakemake's group reaches the jobs by their clients
                    )
                )
    except OSError:
        import shutil

        while _servers:
            _servers.pop().communicate()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return str(folder)


_servers: list[Any] = []  # while this process lives, their pipes are open


# --------------------------------------------------------------------------------------------- in a job's shell


def client(words: list[str]) -> int:
    """Has a job started and stands for it until it ends; the status is the job's. Becomes the plain process where none
    can be forked."""
    signal.signal(signal.SIGINT, interrupted)  # other signals end this process while nothing has begun
    server = connection(words)
    kind, job = reply(server) if server else (REFUSED, 0)
    if server is None or kind != STARTED:
        os.environ.pop(VARIABLE, None)
        os.execvp("python", ["python", *words])

    def forward(number: int, _frame: object = None) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(job, number)

    def pause(_number: int, _frame: object) -> None:
        forward(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        forward(signal.SIGCONT)

    for number in FORWARDED:
        signal.signal(number, forward)
    signal.signal(signal.SIGTSTP, pause)
    kind, status = reply(server)
    if kind == ENDED:
        return status if status >= 0 else 128 - status
    message = "the process that started this job was killed, and the job with it; the same command makes it again"
    print(f"error: {message}", file=sys.stderr)
    return 1


def interrupted(_number: int, _frame: object) -> NoReturn:
    """Ends this process as a job ends that Ctrl-C reaches (`openset_distill.core.command.run`)."""
    os.write(2, b"error: interrupted; what was complete is kept, and the same command resumes\n")
    os._exit(128 + signal.SIGINT)


def connection(words: list[str]) -> socket.socket | None:
    """The server of a script, which was asked to start it; None where it has none."""
    folder = os.environ.get(VARIABLE)
    if not (folder and words) or Path(words[0]).resolve().parent != HERE.parent:
        return None
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(str(Path(folder, Path(words[0]).name)))
        environment = [name + b"=" + value for name, value in os.environb.items()]
        parts = [str(len(words)).encode(), os.fsencode(Path.cwd()), *map(os.fsencode, words), *environment]
        message = b"\0".join(parts)
        socket.send_fds(server, [LENGTH.pack(len(message))], [0, 1, 2])
        server.sendall(message)
    except OSError:
        server.close()
        return None
    return server


def reply(server: socket.socket) -> tuple[bytes, int]:
    """What a server says, and a number with it; an empty word where it is gone."""
    try:
        answer = server.recv(REPLY.size, socket.MSG_WAITALL)
    except OSError:
        answer = b""
    return REPLY.unpack(answer) if len(answer) == REPLY.size else (b"", 0)


# ----------------------------------------------------------------------------------------------- a server


def receive(connection: socket.socket) -> Request:
    """What a client asks for.

    Raises:
        OSError: it has gone, or does not say.
        ValueError: it is no client.
    """
    connection.settimeout(10)
    head, streams, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
    try:
        if len(head) != LENGTH.size or len(streams) != 3:
            raise ValueError("no client")
        (length,) = LENGTH.unpack(head)
        message = bytearray()
        while len(message) < length:
            part = connection.recv(min(length - len(message), 1 << 16))
            if not part:
                raise ConnectionError("the client has gone")
            message += part
        count, folder, *rest = bytes(message).split(b"\0")
        words, variables = rest[: int(count)], rest[int(count) :]
        environment = dict(variable.split(b"=", 1) for variable in variables)
    except BaseException:
        for number in streams:
            os.close(number)
        raise
    connection.settimeout(None)
    return Request([os.fsdecode(word) for word in words], folder, environment, list(streams))


def has_gone(connection: socket.socket) -> bool:
    """Whether a client has ended: it never says more than its request."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


class Server:
    """Forks the jobs of a family until Snakemake and the last job have ended.

    The environment of the first job is that of the imports, which read some of it (the threads of linear algebra), so
    only jobs with an equal one are forked. Neither are any where the imports left a thread behind, which a fork would
    lose, or once the library's files are others than those imported.
    """

    def __init__(self, listener: socket.socket, family: str):
        self.listener, (_, self.modules) = listener, FAMILIES[family]
        self.jobs: dict[int, socket.socket] = {}
        self.environment: dict[bytes, bytes] | None = None
        self.files: dict[str, tuple[int, int]] = {}
        self.single = True

    def serve(self) -> Request | None:
        """Returns in each job with what it is to do, and in the server with None at its end."""
        self.waiting = selectors.DefaultSelector()
        self.woken, wakes = socket.socketpair()
        for end in (self.woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # one that is ignored would not wake
        self.waiting.register(self.listener, selectors.EVENT_READ, self.accept)
        self.waiting.register(0, selectors.EVENT_READ, self.close)
        self.waiting.register(self.woken, selectors.EVENT_READ, self.reap)
        while self.jobs or self.listener.fileno() >= 0:
            for key, _ in self.waiting.select():
                request = key.data(key.fileobj)
                if request:
                    return request
        return None

    def accept(self, _listener: object) -> Request | None:
        """Forks one more job, unless it must be plain."""
        try:
            connection, _ = self.listener.accept()
        except OSError:  # closed, or its client has gone
            return None
        try:
            request = receive(connection)
        except (OSError, ValueError):
            connection.close()
            return None
        server, job = os.getpid(), None
        with contextlib.suppress(OSError):  # of a fork, where memory or processes are short
            job = os.fork() if self.fits(request) and not has_gone(connection) else None
        if job == 0:
            connection.close()
            self.leave(server)
            return request
        for number in request.streams:
            os.close(number)
        if job is None:
            self.tell(connection, REFUSED, 0)
            connection.close()
            return None
        self.jobs[job] = connection
        self.waiting.register(connection, selectors.EVENT_READ, lambda _: self.kill(job))
        self.tell(connection, STARTED, job)
        return None

    def fits(self, request: Request) -> bool:
        """Whether a job would be the same as a plain process. The first one has everything imported."""
        environment = {name: value for name, value in request.environment.items() if name not in OF_THE_SHELL}
        if self.environment is None:
            self.environment = environment
            os.environb.clear()
            os.environb.update(environment)
            self.preload()
        return environment == self.environment and self.single and self.files == stamps(self.files)

    def preload(self) -> None:
        """Imports the modules of the family; where one fails, the job fails at it, in its own words."""
        import gc
        import importlib

        for module in self.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(module)
        library = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
        self.files = stamps(path for path in library if f"{os.sep}openset_distill{os.sep}" in path)
        self.single = len(list(Path("/proc/self/task").iterdir())) == 1
        gc.collect()
        gc.freeze()  # collections of the jobs would copy the pages of all these objects

    def leave(self, server: int) -> None:
        """Makes this process a job: what belongs to the server is closed, and signals do what they do at first."""
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != server:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for connection in (self.listener, self.woken, *self.jobs.values()):
            connection.close()
        self.waiting.close()

    def kill(self, job: int) -> None:
        """Ends a job whose client was killed."""
        if job not in self.jobs:
            return
        self.waiting.unregister(self.jobs[job])
        os.kill(job, signal.SIGKILL)

    def reap(self, _woken: object) -> None:
        """Tells clients how their jobs ended."""
        with contextlib.suppress(BlockingIOError):
            self.woken.recv(4096)
        while self.jobs:
            job, status = os.waitpid(-1, os.WNOHANG)
            if not job:
                return
            connection = self.jobs.pop(job)
            self.tell(connection, ENDED, os.waitstatus_to_exitcode(status))
            with contextlib.suppress(KeyError):  # its client has gone before
                self.waiting.unregister(connection)
            connection.close()

    def close(self, _pipe: object) -> None:
        """Takes no more jobs: Snakemake has ended."""
        self.waiting.unregister(0)
        self.waiting.unregister(self.listener)
        self.listener.close()

    @staticmethod
    def tell(connection: socket.socket, kind: bytes, value: int) -> None:
        """Tells a client, if it is there."""
        with contextlib.suppress(OSError):
            connection.send(REPLY.pack(kind, value), socket.MSG_NOSIGNAL)


def stamps(paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Time and size of files, by path."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):  # it is gone, so differs from what it was
            state = Path(path).stat()
            found[path] = (state.st_mtime_ns, state.st_size)
    return found


def serve(family: str, folder: str, listener: int) -> None:
    """Serves a family; in its jobs, runs their scripts as Python would."""
    request = Server(socket.socket(fileno=listener), family).serve()
    if request is None:
        for name in (family, *FAMILIES[family][0]):
            Path(folder, name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others still serve
            Path(folder).rmdir()
        return
    import runpy

    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environb.clear()
    os.environb.update(request.environment)
    os.chdir(request.folder)
    sys.argv[:] = request.words
    try:
        runpy.run_path(request.words[0], run_name="__main__")
    except SystemExit as end:
        leave(end)


def leave(end: SystemExit) -> NoReturn:
    """Ends a job as Python does, without freeing each object of the imports first: in a fork each one's page would be
    copied for that."""
    status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    try:
        atexit._run_exitfuncs()
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except OSError:  # the log cannot be written
        status = status or 120
    os._exit(status & 0xFF)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(client(sys.argv[1:]))

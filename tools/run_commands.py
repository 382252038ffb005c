"""Runs the steps written by `export_commands.py`; needs only Python and the packages of the steps.

    python tools/run_commands.py steps.json --minutes 9
    python tools/run_commands.py steps.json --together 4     # four at a time, on one GPU or several

Run it in the repository's folder. A step is skipped if all its outputs exist and were made by the same command. If a
setting was changed, the affected steps and everything downstream run again. The commands of outputs made by this tool
are recorded in `.run_commands.json`; outputs that were copied or made by the workflow are accepted as they are, and the
last line counts them. Changes of code or data are not detected.

When the time is up, running trainings save their state and the exit status is 3; the same command resumes, with bitwise
identical results. Outputs are written where the workflow writes them: if they are copied back with their times (`tar`,
`rsync -a`), Snakemake accepts them as its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

UNFINISHED = 3
# output -> the key of the command that made it, of all lists of steps that were run in this folder
RECORD = Path(".run_commands.json")
# how a step is run, not what it makes
_MACHINE = re.compile(r" --(threads|workers) \d+")


def main() -> int:
    """Runs the steps of a file in order; the status says whether all are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", type=Path, help="file written by export_commands.py")
    parser.add_argument("--minutes", type=float, help="time limit, after which trainings save their state and stop")
    parser.add_argument(
        "--together", type=int, default=1, help="number of steps to run at once, such as trainings that share a GPU"
    )
    parser.add_argument(
        "--grace", type=float, default=60, help="seconds that a step may take to save and stop (default: 60)"
    )
    arguments = parser.parse_args()
    if arguments.together < 1:
        parser.error(f"--together {arguments.together}: at least 1")
    try:
        steps = read_steps(arguments.steps)
    except (OSError, ValueError) as error:
        print(f"error: {arguments.steps}: {error}; write it again with export_commands.py", file=sys.stderr)
        return 2
    try:
        made = read_record()
    except (OSError, ValueError) as error:
        print(f"error: {RECORD}: {error}; delete it, and existing outputs are accepted as they are", file=sys.stderr)
        return 2
    deadline = time.monotonic() + 60 * arguments.minutes if arguments.minutes is not None else float("inf")
    queue, running = Queue(steps, made), Running()
    try:
        return run_all(queue, running, arguments.together, deadline, arguments.grace)
    except KeyboardInterrupt:
        running.stopped(arguments.grace)
        raise


def run_all(queue: Queue, running: Running, together: int, deadline: float, grace: float) -> int:
    """Runs steps side by side until all are done, one fails or the time is over; returns the exit status."""
    while queue.waiting or running:
        queue.start(running, together)
        if queue.waiting and not running and not queue.failed:
            print("error: the steps wait for each other; write them again with export_commands.py", file=sys.stderr)
            return 2
        over = not running.wait(deadline)
        for number, step, status in running.stopped(grace) if over else running.ended():
            queue.ended(number, step, status, stopped=over)
        if over:
            left = f"{len(queue.waiting)} of {queue.total} steps have not started"
            print(f"the time is up, and {left}; the same command resumes", flush=True)
            return UNFINISHED
        if queue.failed and not running:
            return 1
    as_they_are = f"; the outputs of {queue.taken} already existed and were accepted as they are" if queue.taken else ""
    print(f"all {queue.total} steps are done{as_they_are}")
    return 0


class Queue:
    """The steps that wait, in order, and what is known of the outputs.

    `taken`: how many steps had outputs of unknown origin; `failed`: whether a step has failed, so
    that no other is started.
    """

    def __init__(self, steps: list[dict[str, Any]], made: dict[str, str]) -> None:
        self.total, self.waiting = len(steps), list(enumerate(steps, start=1))
        self.taken, self.failed = 0, False
        self._made, self._keys = made, keys(steps)

    def start(self, running: Running, together: int) -> None:
        """Starts the steps whose inputs are all made, until so many run; those whose outputs are made are done."""
        for number, step in [] if self.failed else list(self.waiting):
            if len(running) == together:
                return
            unmade = {output for _, other in (*self.waiting, *running.steps) for output in other["outputs"]}
            if unmade & set(step["inputs"]):
                continue
            self.waiting.remove((number, step))
            there = all(Path(output).exists() for output in step["outputs"])
            if there and self._made_by(step):
                continue
            again = " again, because its command has changed" if there else ""
            print(f"{number}/{self.total} {step['rule']}: {step['outputs'][0]}{again}", flush=True)
            running.start(number, step)

    def _made_by(self, step: dict[str, Any]) -> bool:
        """Whether the outputs of `step` were made by its command, or by an unknown one, which is counted."""
        found = {self._made.get(output, "") for output in step["outputs"]}
        if not found <= {self._keys[step["outputs"][0]], ""}:
            return False
        self.taken += "" in found
        return True

    def ended(self, number: int, step: dict[str, Any], status: int, *, stopped: bool) -> None:
        """Records what a step has made, or says that it failed. One that was `stopped` runs again next time."""
        if status == 0:
            self._made |= {output: self._keys[output] for output in step["outputs"]}
            write_record(self._made)
        elif not stopped:
            self.failed = True
            print(f"step {number} failed with status {status}; its log:", *step["logs"], sep="\n  ", file=sys.stderr)


def keys(steps: list[dict[str, Any]]) -> dict[str, str]:
    """Output -> a hash of the command that makes it and of those that make its inputs; the steps are in order."""
    of_output: dict[str, str] = {}
    for step in steps:
        before = sorted(of_output[file] for file in step["inputs"] if file in of_output)
        key = hashlib.sha256("\n".join([_MACHINE.sub("", step["command"]), *before]).encode()).hexdigest()
        of_output |= dict.fromkeys(step["outputs"], key)
    return of_output


def read_record() -> dict[str, str]:
    """What `write_record` wrote; empty where it wrote nothing yet.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    try:
        made = json.loads(RECORD.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    if not isinstance(made, dict) or not all(isinstance(key, str) for key in made.values()):
        raise ValueError("it holds no record of steps")
    return made


def write_record(made: dict[str, str]) -> None:
    """Keeps which command made which output, whole or not at all."""
    partial = RECORD.with_suffix(".partial")
    partial.write_text(json.dumps(made, indent=0), encoding="utf-8")
    partial.replace(RECORD)


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The steps of a file of `export_commands.py`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not what `export_commands.py` writes.
    """
    steps = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ValueError("it must hold a list of steps")
    for number, step in enumerate(steps, start=1):
        texts = [step.get("rule"), step.get("command")]
        for key in ("inputs", "outputs", "logs"):
            texts += step[key] if isinstance(step.get(key), list) else [None]
        if not all(isinstance(text, str) for text in texts) or not step["outputs"]:
            raise ValueError(f"step {number} lacks its rule, command, inputs, outputs or logs")
    return steps


class Running:
    """The steps that run side by side, each in a session of its own."""

    def __init__(self) -> None:
        self._processes: dict[subprocess.Popen, tuple[int, dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self._processes)

    @property
    def steps(self) -> list[tuple[int, dict[str, Any]]]:
        """Their numbers, and what they are."""
        return list(self._processes.values())

    def start(self, number: int, step: dict[str, Any]) -> None:
        """Starts one more."""
        for file in (*step["outputs"], *step["logs"]):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        paths = [str(Path("src").absolute()), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        # this very Python, whatever the machine calls it; the shell outlives the signal: its status is the step's
        python = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}'
        shell = ["bash", "-c", f"set -euo pipefail; trap : TERM; {python}; {step['command']}"]
        self._processes[subprocess.Popen(shell, env=environment, start_new_session=True)] = number, step

    def wait(self, deadline: float) -> bool:
        """Waits until one has ended, or none runs; False where the deadline is over before."""
        while self._processes and all(process.poll() is None for process in self._processes):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return time.monotonic() < deadline

    def ended(self) -> list[tuple[int, dict[str, Any], int]]:
        """Those that have ended: number, step and exit status."""
        ended = [process for process in self._processes if process.poll() is not None]
        return [(*self._processes.pop(process), process.returncode) for process in ended]

    def stopped(self, grace: float) -> list[tuple[int, dict[str, Any], int]]:
        """All, after they were asked to stop and, when the grace is over, made to."""
        deadline = time.monotonic() + grace
        for process in self._processes:
            _signal(process, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
        return self.ended()


def _signal(process: subprocess.Popen, number: int) -> None:
    if process.poll() is None:
        os.killpg(process.pid, number)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("error: interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)

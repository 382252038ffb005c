"""Times what the workflow costs beyond its jobs: planning every experiment, and short jobs here and on SLURM.

    python benchmarks/cluster.py [--json FILE]

Planning is `snakemake -n` with three seeds. The short jobs are the ten evaluations of a small cut of the digits, on
this machine, on a SLURM cluster of one node that the script starts (tests/helpers/slurm_cluster.py), each as a job of
its own, as a job array, and in groups as the profile has it. The numbers in docs/cluster.md come from this script.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import REPOSITORY, machine

from openset_distill.config.experiment import read_configuration

sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))

import slurm_cluster
from small_repository import copy_of_the_repository, jobs

WAITS = ["--profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"]
NO_GROUPS = ["--groups", "nothing=nothing"]
WAYS = {
    "here": ["--cores", "2"],
    "SLURM, a job each": [*WAITS, *NO_GROUPS],
    "SLURM, a job array": [*WAITS, *NO_GROUPS, "--slurm-array-jobs", "evaluate"],
    "SLURM, in groups": WAITS,
}


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, subprocess.CompletedProcess]:
    """Wall seconds of a command that must succeed, and the process."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    started = time.perf_counter()
    process = subprocess.run(
        command, cwd=folder, env=environment | {"PATH": path}, capture_output=True, text=True, timeout=600
    )
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stdout}{process.stderr}")
    return seconds, process


def planning() -> dict[str, dict[str, float]]:
    """Number of jobs, and seconds until they are planned, of every experiment with three seeds."""
    planned = {}
    with tempfile.TemporaryDirectory() as images:
        for path in sorted((REPOSITORY / "config" / "experiments").glob("[!_]*.yaml")):
            change = ["seeds=[0, 1, 2]", "results=results/planning"]
            if read_configuration(path).get("data", {}).get("dataset") == "image_folder":
                change.append(f"data={{images: {images}}}")
            command = ["snakemake", "-n", "paper_figures", "--configfile", str(path), "--config", *change]
            seconds, process = timed(command, REPOSITORY, dict(os.environ))
            planned[path.stem] = {"jobs": sum(jobs(process).values()), "seconds": round(seconds, 2)}
    return planned


def spent(cluster: Path) -> tuple[int, int]:
    """Jobs that the cluster has had, and the seconds for which they held a core."""
    rows = slurm_cluster.command(cluster, "sacct", "-nPX", "--format=CPUTimeRAW").split()
    return len(rows), sum(map(int, rows))


def short_jobs() -> dict[str, dict[str, float]]:
    """Ten evaluations, in each way: wall seconds, SLURM jobs, and the seconds for which these held a core."""
    measured = {}
    with tempfile.TemporaryDirectory() as name:
        folder, cluster = copy_of_the_repository(Path(name, "workflow")), Path(name, "slurm")
        timed(["snakemake", "--cores", "2", "paper_training"], folder, dict(os.environ))
        try:
            slurm_cluster.start(cluster)
            for way, options in WAYS.items():
                command = ["snakemake", *options, "--forcerun", "evaluate", "--", "paper_training"]
                jobs_before, held_before = spent(cluster)
                seconds, _ = timed(command, folder, slurm_cluster.environment(cluster))
                jobs_after, held_after = spent(cluster)
                measured[way] = {
                    "wall_seconds": round(seconds, 1),
                    "slurm_jobs": jobs_after - jobs_before,
                    "core_seconds": held_after - held_before,
                }
        finally:
            slurm_cluster.stop(cluster)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    planned = planning()
    result = {
        "machine": machine("snakemake", "snakemake-executor-plugin-slurm"),
        "planning": planned,
        "planning_all": {key: round(sum(one[key] for one in planned.values()), 1) for key in ("jobs", "seconds")},
        "ten_short_jobs": short_jobs(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

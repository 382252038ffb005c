"""Times the whole default workflow on this machine: from nothing, with nothing to do, and job by job.

    python benchmarks/workflow.py [--runs 1] [--json FILE]

It works in a temporary copy of the repository, so results that are already there stay as they are. The numbers in
docs/benchmarks.md come from this script.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import REPOSITORY, machine

SOURCES = ("Snakefile", "rules", "workflow_scripts", "config", "profiles", "src", "environment.yml")


def copy_sources(folder: Path) -> None:
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, folder / name)


def timed(command: list[str], folder: Path, **variables: str) -> float:
    """Wall seconds of a command that must succeed, with more variables in its environment."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"} | variables
    started = time.perf_counter()
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stdout}{process.stderr}")
    return seconds


def kinds_of_jobs(results: Path) -> dict[str, dict[str, float]]:
    """Number, median wall and CPU seconds and peak memory (MiB) by kind of job, from Snakemake's benchmark files."""
    rows: dict[str, list[dict[str, str]]] = {}
    for path in sorted((results / "benchmarks").glob("*.tsv")):
        kind = path.stem.split("_")[0] if path.stem.startswith(("figure", "table")) else path.stem.rsplit("_", 1)[-1]
        with open(path, newline="") as stream:
            rows.setdefault(kind, []).extend(csv.DictReader(stream, delimiter="\t"))
    return {
        kind: {
            "jobs": len(of_kind),
            "median_seconds": round(statistics.median(float(row["s"]) for row in of_kind), 2),
            "median_cpu_seconds": round(statistics.median(_number(row["cpu_time"]) for row in of_kind), 2),
            "peak_memory_mib": round(max(_number(row["max_rss"]) for row in of_kind)),
        }
        for kind, of_kind in rows.items()
    }


def _number(text: str) -> float:
    # a job shorter than the sampling interval has no reading
    return 0.0 if text in ("NA", "-", "") else float(text)


def training_share(results: Path) -> float:
    """Seconds inside training processes that are not start-up, as a part of all seconds of these processes."""
    files = sorted(results.glob("split*/seed*/*/provenance.json"))
    inside = sum(json.loads(path.read_text())["wall_seconds"] for path in files)
    whole = 0.0
    for path in (results / "benchmarks").glob("*_train.tsv"):
        with open(path, newline="") as stream:
            whole += sum(float(row["s"]) for row in csv.DictReader(stream, delimiter="\t"))
    return inside / whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1, help="how often the workflow runs from nothing")
    parser.add_argument("--json", type=Path, help="also write the results here")
    arguments = parser.parse_args()
    scratch, idle = [], []
    command = ["snakemake", "--cores", "all", "paper_figures"]
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            copy_sources(folder)
            scratch.append(timed(command, folder))
            idle += [timed(command, folder) for _ in range(3)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_sources(folder)
        # Snakemake knows memory and CPU seconds of its own children only
        plain = timed(command, folder, OPENSET_FORK_SERVERS="")
        jobs, share = kinds_of_jobs(folder / "results" / "digits"), training_share(folder / "results" / "digits")
    imports = {
        name: statistics.median(timed([sys.executable, "-c", f"import {module}"], REPOSITORY) for _ in range(5))
        for name, module in {
            "training job": "openset_distill.training.loop",
            "evaluation job": "openset_distill.evaluation.evaluate",
            "configuration": "openset_distill.config.experiment",
        }.items()
    }
    result = {
        "machine": machine("torch", "numpy", "snakemake"),
        "from_nothing_seconds": [round(seconds, 1) for seconds in scratch],
        "from_nothing_without_fork_servers_seconds": round(plain, 1),
        "nothing_to_do_seconds": [round(seconds, 2) for seconds in idle],
        "import_seconds": {name: round(seconds, 2) for name, seconds in imports.items()},
        "share_of_training_jobs_after_start_up": round(share, 2),
        "jobs": jobs,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

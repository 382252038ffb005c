"""Writes the commands that the workflow would run to a file, for a machine without Snakemake.

    python tools/export_commands.py --steps steps.json --cores 16 \\
        results/tinyimagenet/split0/seed0/ce/metrics.json --configfile config/experiments/tinyimagenet.yaml
    python tools/run_commands.py steps.json --minutes 9       # there, until all is done

Further arguments are passed to Snakemake: targets, `--configfile`, `--config`. The list is complete, from the download
to the targets, even if some outputs already exist here.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path
from typing import Any

from start import check

from openset_distill.core.command import positive, run
from openset_distill.core.errors import OpenSetError
from openset_distill.core.files import write_json

STEP = re.compile(
    r"^(?:local)?rule (?P<rule>\w+):\n(?P<facts>(?:    .*\n)+)(?:Shell command: (?P<command>.*)\n)?", re.MULTILINE
)

FILES = {"inputs": "input", "outputs": "output", "logs": "log"}


def main() -> None:
    """Writes the steps towards the wanted files as JSON, from a dry run of the workflow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", required=True, type=Path, help="output: the steps in order, JSON")
    parser.add_argument("--cores", type=positive, default=1, help="cores of the machine that will run the steps")
    arguments, wishes = parser.parse_known_args()
    check(wishes)
    command = ["snakemake", "--dry-run", "--printshellcmds", "--forceall", "--cores", str(arguments.cores), *wishes]
    planned = subprocess.run(command, capture_output=True, text=True)
    if planned.returncode:
        raise OpenSetError(f"Snakemake cannot plan this:\n{planned.stdout}{planned.stderr}")
    steps = [step(match) for match in STEP.finditer(planned.stdout + planned.stderr) if match["command"]]
    write_json(arguments.steps, in_order(steps))
    print(f"{arguments.steps}: {len(steps)} steps")


def step(match: re.Match[str]) -> dict[str, Any]:
    """The rule, files and command of one printed job."""
    facts = dict(re.findall(r"^    (\w+): (.*)$", match["facts"], re.MULTILINE))
    files = {key: facts[name].split(", ") if name in facts else [] for key, name in FILES.items()}
    return {"rule": match["rule"], **files, "command": match["command"]}


def in_order(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps, each after those that make its inputs; otherwise as they came."""
    ordered, waiting = [], list(steps)
    while waiting:
        unmade = {file for step in waiting for file in step["outputs"]}
        ready = [step for step in waiting if not unmade & set(step["inputs"])]
        if not ready:
            raise OpenSetError(
                "the steps wait for each other; perhaps a path contains a comma, which is read as two paths"
            )
        ordered += ready
        waiting = [step for step in waiting if step not in ready]
    return ordered


if __name__ == "__main__":
    run(main)

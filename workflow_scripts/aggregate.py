"""Collects the results of all runs of an experiment into tidy tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from openset_distill.core.command import json_object, run
from openset_distill.report.aggregate import Collector

LAYOUT = (
    *("experiment", "dataset", "protocol", "splits", "seeds", "baseline", "tables", "embedded", "runs", "networks"),
    "epochs",
)


def main() -> None:
    """Writes the tidy tables of an experiment from the results of its runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", required=True, type=Path, help="folder of the experiment")
    parser.add_argument(
        "--layout",
        required=True,
        type=json_object(*LAYOUT),
        help="JSON: splits, seeds, runs with label and family, baseline...",
    )
    parser.add_argument("--folder", required=True, type=Path, help="output: folder of the tidy tables")
    parser.add_argument(
        "--metrics", required=True, type=Path, help="output: folder of the headline numbers, one file per run"
    )
    arguments = parser.parse_args()
    Collector(arguments.results, arguments.layout).write(arguments.folder, arguments.metrics)


if __name__ == "__main__":
    run(main)

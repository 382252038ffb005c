"""Puts several experiments into one table, with published numbers for their datasets.

    python tools/compare.py --runs Tiny-ImageNet=results/tinyimagenet/tidy/runs.csv \\
        --runs CIFAR-10=results/cifar10/tidy/runs.csv --csv comparison.csv --markdown comparison.md \\
        --latex comparison.tex
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openset_distill.core.command import named_path, run
from openset_distill.core.errors import SettingsError
from openset_distill.report.tables import read_published, save
from openset_distill.report.tidy import read_tidy


def main() -> None:
    """Writes one table of several experiments, from their tables of runs and the published numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs",
        type=named_path,
        action="append",
        required=True,
        metavar="NAME=PATH",
        help="name of an experiment and its tidy table runs.csv; repeatable, in the order of the columns",
    )
    parser.add_argument(
        "--published", type=Path, default=Path("config/reference/published_results.csv"), help="published numbers"
    )
    parser.add_argument("--score", default="maximum_logit", help="score by which the runs are compared")
    parser.add_argument("--csv", required=True, type=Path, help="output: the numbers")
    parser.add_argument("--markdown", required=True, type=Path, help="output: Markdown")
    parser.add_argument("--latex", required=True, type=Path, help="output: LaTeX; needs booktabs and graphicx")
    arguments = parser.parse_args()

    experiments = {}
    for name, path in arguments.runs:
        if name in experiments:
            raise SettingsError(f"--runs names {name!r} twice; give each experiment a name of its own")
        experiments[name] = read_tidy("runs", path)
    # pandas waits until the command line is known to be right
    from openset_distill.report.tables.comparison import compare

    table = compare(experiments, read_published(arguments.published), arguments.score)
    save(table, arguments.csv, arguments.markdown, arguments.latex)


if __name__ == "__main__":
    run(main)

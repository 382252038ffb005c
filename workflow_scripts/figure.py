"""Draws one figure from tidy tables.

    python workflow_scripts/figure.py --name two_sides --table runs=results/digits/tidy/runs.csv \\
        --context context.json --pdf two_sides.pdf --png two_sides.png --csv two_sides.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openset_distill.core.command import named_path, run
from openset_distill.report.figures import figure_spec, read_context


def main() -> None:
    """Draws the figure of that name as PDF and PNG, with a CSV of what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="name of a figure in the registry")
    parser.add_argument(
        "--table", type=named_path, action="append", default=[], metavar="NAME=PATH", help="a tidy table; repeatable"
    )
    parser.add_argument("--context", required=True, help="JSON text, or a .json file: experiment, splits, seeds ...")
    parser.add_argument("--pdf", required=True, type=Path, help="output: PDF with embedded fonts")
    parser.add_argument("--png", required=True, type=Path, help="output: PNG at 200 dpi")
    parser.add_argument("--csv", required=True, type=Path, help="output: the plotted numbers")
    arguments = parser.parse_args()

    spec = figure_spec(arguments.name)
    context = read_context(arguments.context)
    # matplotlib and pandas wait until the command line is known to be right
    from openset_distill.report.figures.style import save
    from openset_distill.report.tidy import read_tables

    tables = read_tables(dict(arguments.table), spec.tables, context)
    figure, data = spec.draw(tables, context)
    save(figure, data, arguments.pdf, arguments.png, arguments.csv)


if __name__ == "__main__":
    run(main)

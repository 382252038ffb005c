"""Makes one table, as CSV, Markdown and LaTeX, from tidy tables.

    python workflow_scripts/table.py --name benchmark --table runs=results/digits/tidy/runs.csv \\
        --published config/reference/published_results.csv --context context.json \\
        --csv benchmark.csv --markdown benchmark.md --latex benchmark.tex
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openset_distill.core.command import named_path, run
from openset_distill.report.figures import read_context
from openset_distill.report.tables import read_published, save, table_spec
from openset_distill.report.tidy import read_tables


def main() -> None:
    """Writes the table of that name as CSV, Markdown, LaTeX and HTML, from tidy tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="name of a table in the registry")
    parser.add_argument(
        "--table", type=named_path, action="append", default=[], metavar="NAME=PATH", help="a tidy table; repeatable"
    )
    parser.add_argument("--published", type=Path, help="numbers from the literature, for tables that show them")
    parser.add_argument("--context", required=True, help="JSON text, or a .json file: experiment, splits, seeds ...")
    parser.add_argument("--csv", required=True, type=Path, help="output: the numbers")
    parser.add_argument("--markdown", required=True, type=Path, help="output: Markdown")
    parser.add_argument("--latex", required=True, type=Path, help="output: LaTeX; needs booktabs and graphicx")
    parser.add_argument("--html", type=Path, help="output: a standalone page for the report")
    arguments = parser.parse_args()

    spec = table_spec(arguments.name)
    context = read_context(arguments.context)
    tables = read_tables(dict(arguments.table), spec.tables, context)
    published = read_published(arguments.published) if spec.published and arguments.published else None
    save(spec.build(tables, context, published), arguments.csv, arguments.markdown, arguments.latex, arguments.html)


if __name__ == "__main__":
    run(main)

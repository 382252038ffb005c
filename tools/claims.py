"""Judges claims by a written rule from stored results; writes claims.csv, claims.md and a figure.

    python tools/claims.py --claims docs/results/claims.yaml --csv docs/results/claims.csv \\
        --markdown docs/results/claims.md --page docs/results/README.md --figure docs/results/claims.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openset_distill.core.command import run
from openset_distill.core.files import atomic_write
from openset_distill.report.claims import of_today, read_claims
from openset_distill.report.claims_figure import draw
from openset_distill.report.claims_output import write
from openset_distill.report.figures.style import rendered


def main() -> None:
    """Writes the verdict on each claim as CSV and Markdown, from a file of claims and kept results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", required=True, type=Path, help="YAML: the rule, the data, the runs, the claims")
    parser.add_argument("--csv", required=True, type=Path, help="output: the numbers and verdicts of every score")
    parser.add_argument("--markdown", required=True, type=Path, help="output: the table for a page")
    parser.add_argument("--page", type=Path, help="page to update: its marked parts are replaced")
    parser.add_argument("--figure", type=Path, help="output: PNG of the claims, without earlier studies")
    arguments = parser.parse_args()
    claims = read_claims(arguments.claims)
    judged, results = write(claims, arguments.csv, arguments.markdown, arguments.page)
    if arguments.figure:
        figure = draw(judged, claims, of_today(claims, results))
        with atomic_write(arguments.figure) as partial:
            partial.write_bytes(rendered(figure, "png"))
    for one in judged:
        if one.decides:
            print(f"{one.verdict}: {one.claim.claim} ({one.data}, n = {one.found.n})")


if __name__ == "__main__":
    run(main)

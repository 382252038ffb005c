"""Judges claims by their written rule, from kept results: claims.csv and claims.md.

    python tools/claims.py --claims docs/results/claims.yaml --csv docs/results/claims.csv \\
        --markdown docs/results/claims.md --page docs/results/README.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openset_distill.core.command import run
from openset_distill.report.claims import read_claims, write


def main() -> None:
    """Writes the verdict on each claim as CSV and Markdown, from a file of claims and kept results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", required=True, type=Path, help="YAML: the rule, the data, the runs, the claims")
    parser.add_argument("--csv", required=True, type=Path, help="output: the numbers and verdicts of every score")
    parser.add_argument("--markdown", required=True, type=Path, help="output: the table for a page")
    parser.add_argument("--page", type=Path, help="a page whose marked part becomes the table of the deciding score")
    arguments = parser.parse_args()
    for one in write(read_claims(arguments.claims), arguments.csv, arguments.markdown, arguments.page):
        if one.decides:
            print(f"{one.verdict}: {one.claim.claim} ({one.data}, n = {one.found.n})")


if __name__ == "__main__":
    run(main)

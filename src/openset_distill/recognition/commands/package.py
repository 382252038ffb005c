"""Turns a finished run of the workflow into a model folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `openset package`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="results/<experiment>/split<k>/seed<s>/<run>")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="output: folder of the model")
    parser.add_argument("--split", type=Path, help="split.json (default: the one above RUN)")
    parser.add_argument("--score", default="maximum_logit", help="score that decides (default: maximum_logit)")


def run(arguments: argparse.Namespace) -> None:
    """Writes a model folder from the results of a run."""
    from ..package import package_run

    model = package_run(arguments.run, split=arguments.split, score=arguments.score)
    model.save(arguments.out)
    points = model.description.operating_points.get(arguments.score, ())
    if points:
        print(f"{arguments.out}: {points[0].name} from {points[0].threshold:.6g} on ({points[0].source})")
        if warning := points[0].warning():
            print(f"warning: {warning}", file=sys.stderr)
    else:
        print(
            f"{arguments.out}: no threshold, because the run has no outputs of validation images; "
            f"openset calibrate {arguments.out} --known FOLDER sets one"
        )

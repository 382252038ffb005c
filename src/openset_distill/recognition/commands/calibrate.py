"""Sets the thresholds of all scores of a model, on images that it was not trained on.

A threshold accepts at least the given fraction of knowns or, with examples of unknowns, at most the given fraction of
unknowns. The first rate of --accept becomes the model's default, or else the first of --false-accept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def rates(text: str) -> list[float]:
    """Rates separated by commas, as an argument's type."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of rates such as 0.95,0.99") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `openset calibrate`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model; its thresholds are replaced")
    parser.add_argument(
        "--known", required=True, metavar="FOLDER", help="images of known classes (class folders are optional)"
    )
    parser.add_argument("--unknown", metavar="FOLDER", help="images of anything else")
    parser.add_argument(
        "--accept", type=rates, metavar="RATES", help="rates of knowns to accept, such as 0.95,0.99 (default: 0.95)"
    )
    parser.add_argument(
        "--false-accept", type=rates, default=[], metavar="RATES", help="rates of unknowns to accept at most"
    )
    parser.add_argument("--score", help="score that decides from now on (default: the model's)")


def run(arguments: argparse.Namespace) -> None:
    """Replaces the thresholds of a model by those calibrated on the given images."""
    from ...core.errors import SettingsError
    from ...evaluation.thresholds import DEFAULT_ACCEPTANCE
    from ..card import rate_in_words
    from ..images import classes_of
    from ..model import OpenSetClassifier

    if arguments.false_accept and arguments.unknown is None:
        raise SettingsError("--false-accept needs examples of unknowns; give their folder with --unknown")
    model = OpenSetClassifier.load(arguments.model)
    if arguments.score:
        model = model.with_score(arguments.score)
    classes_of(arguments.known, model.description.classes)
    accept = arguments.accept
    if accept is None:
        accept = [] if arguments.false_accept else [DEFAULT_ACCEPTANCE]
    points = model.calibrate(
        arguments.known,
        arguments.unknown,
        accept=accept,
        false_accept=arguments.false_accept,
        source=" and ".join(str(folder) for folder in (arguments.known, arguments.unknown) if folder),
    )
    model.save_description(arguments.model)
    print(f"{arguments.model}: thresholds of score {model.description.score}")
    for number, point in enumerate(points):
        default = " (default)" if number == 0 else ""
        print(f"  {point.name}{default}: threshold {point.threshold:.6g}")
        print(f"    knowns accepted:   {rate_in_words(point.known)}")
        if point.unknown:
            print(f"    unknowns accepted: {rate_in_words(point.unknown)}")
    for point in points:
        if warning := point.warning():
            print(f"warning: {warning}", file=sys.stderr)

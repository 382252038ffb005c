"""Measures how good a model is on a folder of images, or any other model by its outputs.

    openset evaluate MODEL FOLDER --unknown OTHERS
    openset evaluate --outputs FILE.npz|FILE.csv

FOLDER has one folder per class. FILE has labels (-1 or `unknown` for unknowns) and logits or scores.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .predict import add_operating_point


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `openset evaluate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="folder of the model")
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="images of known classes in class folders")
    parser.add_argument("--unknown", metavar="FOLDER", help="images of anything else")
    parser.add_argument("--outputs", type=Path, metavar="FILE", help="labels with logits or scores, .npz or .csv")
    parser.add_argument("--score", action="append", help="evaluate this score (repeatable; the first one decides)")
    add_operating_point(parser)
    parser.add_argument(
        "--bootstrap", type=int, default=1000, help="bootstrap resamples for the intervals (default: 1000)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="output: evaluation.json, predictions.csv, curves and histograms"
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints metrics of a model or of an outputs file; writes tables and figures if --out is given."""
    from ...core.errors import SettingsError
    from ...core.files import write_json
    from ..judgement import as_text, draw, judge, write_predictions

    if (arguments.outputs is None) == (arguments.model is None):
        raise SettingsError("give MODEL and FOLDER, or --outputs FILE")
    if arguments.bootstrap < 0:
        raise SettingsError(f"--bootstrap is {arguments.bootstrap}; give a number of resamples, or 0 for no intervals")
    outputs, scores, point = _of_file(arguments) if arguments.outputs else _of_model(arguments)
    judgement = judge(outputs, scores=scores, point=point, resamples=arguments.bootstrap)
    if arguments.out:
        write_json(arguments.out / "evaluation.json", judgement.plain())
        write_predictions(arguments.out / "predictions.csv", judgement)
        if not judgement.known.all():
            draw(arguments.out, judgement)
    if arguments.json:
        print(json.dumps(judgement.plain(), indent=2, allow_nan=False))
    else:
        sys.stdout.write(as_text(judgement))


def _of_file(arguments: argparse.Namespace):
    from ...core.errors import SettingsError
    from ...evaluation.thresholds import at_acceptance, at_false_acceptance
    from ..judgement import judge
    from ..own_outputs import read_outputs

    if arguments.unknown or arguments.folder:
        raise SettingsError("with --outputs, labels in the file mark the unknowns (-1); leave out FOLDER and --unknown")
    outputs = read_outputs(arguments.outputs)
    point = None
    if arguments.accept is not None or arguments.false_accept is not None:
        # chosen on the same images that it is applied to, so the result is slightly optimistic
        judged = judge(outputs, scores=arguments.score, resamples=0)
        values, known, source = judged.scores[judged.score], judged.known, f"{arguments.outputs} itself"
        if arguments.accept is not None:
            point = at_acceptance(values[known], arguments.accept, unknown=values[~known], source=source)
        else:
            point = at_false_acceptance(values[known], values[~known], arguments.false_accept, source=source)
    return outputs, arguments.score, point


def _of_model(arguments: argparse.Namespace):
    from ...core.errors import DataError, SettingsError
    from ...evaluation.scores import SCORES
    from ..images import classes_of
    from ..model import OpenSetClassifier

    if arguments.folder is None:
        raise SettingsError("give the folder with images of the known classes: openset evaluate MODEL FOLDER")
    model = OpenSetClassifier.load(arguments.model)
    if arguments.score:
        model = model.with_score(arguments.score[0])
    if not classes_of(arguments.folder, model.description.classes) and Path(arguments.folder).is_dir():
        raise DataError(
            f"{arguments.folder} has no class folders; put the images into {arguments.folder}/<class>, with the "
            "model's class names"
        )
    point = None
    wanted = arguments.accept is not None or arguments.false_accept is not None
    if wanted or model.description.operating_points.get(model.description.score):
        point = model.operating_point(accept=arguments.accept, false_accept=arguments.false_accept)
    outputs = model.labelled_outputs(arguments.folder, arguments.unknown)
    decided = model.description.score
    scores = arguments.score or [decided, *(name for name in SCORES if name != decided)]
    return outputs, scores, point

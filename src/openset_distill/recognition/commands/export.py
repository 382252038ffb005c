"""Exports a model for programs without PyTorch: one ONNX file that includes normalisation and score."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `openset export`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of the model")
    parser.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="output: the ONNX file")
    parser.add_argument("--score", help="score that the file computes (default: the model's)")


def run(arguments: argparse.Namespace) -> None:
    """Exports a model to an ONNX file."""
    from ..export import export_onnx
    from ..model import OpenSetClassifier

    model = OpenSetClassifier.load(arguments.model, device="cpu")
    if arguments.score:
        model = model.with_score(arguments.score)
    path = export_onnx(model, arguments.onnx)
    points = model.description.operating_points.get(model.description.score, ())
    threshold = f"threshold {points[0].threshold:.6g}" if points else "no threshold: the model was never calibrated"
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, score {model.description.score}, {threshold}")

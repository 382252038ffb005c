"""Computes a two-dimensional embedding of the test features of one run."""

from __future__ import annotations

import argparse
from pathlib import Path

from openset_distill.core.command import natural, positive, run
from openset_distill.core.errors import DataError
from openset_distill.core.files import read_record
from openset_distill.evaluation.evaluate import load_outputs
from openset_distill.report.aggregate import write_rows


def main() -> None:
    """Writes two coordinates for each chosen test image, from the features of a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", required=True, type=Path, help="features, logits and labels of the test images")
    parser.add_argument("--description", required=True, type=Path, help="split.json, for the class names")
    parser.add_argument("--samples", type=positive, default=1000, help="maximum number of test images")
    parser.add_argument("--seed", type=natural, default=0, help="seed for choosing images and for the embedding")
    parser.add_argument("--embedding", required=True, type=Path, help="output: x, y and class of each image, CSV")
    arguments = parser.parse_args()

    from openset_distill.analysis.embedding import balanced_sample, embed

    outputs = load_outputs(arguments.outputs)
    names = read_record(arguments.description, {"known": list})["known"]
    if len(names) <= int(outputs["labels"].max()):
        raise DataError(f"{arguments.description} names {len(names)} classes, and the outputs more; make both again")
    chosen = balanced_sample(outputs["labels"], arguments.samples, seed=arguments.seed)
    points = embed(outputs["features"][chosen], seed=arguments.seed)
    labels = outputs["labels"][chosen]
    rows = [
        {"x": float(x), "y": float(y), "class": names[label] if label >= 0 else "unknown", "known": int(label >= 0)}
        for (x, y), label in zip(points, labels, strict=True)
    ]
    write_rows(arguments.embedding, rows)


if __name__ == "__main__":
    run(main)

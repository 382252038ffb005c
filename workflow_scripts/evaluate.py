"""Computes metrics, curves and a sample of the activations of one run from its stored outputs."""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import numpy as np

from openset_distill.core.command import json_object, natural, run
from openset_distill.core.errors import DataError, SettingsError
from openset_distill.core.files import AGAIN, read_npz, read_record, write_json
from openset_distill.evaluation.detectors import applicable, detect, load_training_outputs
from openset_distill.evaluation.evaluate import curves, evaluate, headline, load_outputs, load_validation
from openset_distill.evaluation.scores import score
from openset_distill.evaluation.thresholds import DEFAULT_ACCEPTANCE, VALIDATION, OperatingPoint, operating_points
from openset_distill.report.aggregate import write_rows


def main() -> None:
    """Writes metrics, curves and activations of a run, from its outputs and fitted detectors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", required=True, type=Path, help="features, logits and labels of the test images")
    parser.add_argument(
        "--settings",
        required=True,
        type=json_object("scores", "detectors", "sampling", "bootstrap", "activation_samples"),
        help="JSON: scores, headline, detectors, sampling, bootstrap, activation_samples",
    )
    parser.add_argument("--training", type=Path, help="outputs for training images, needed by detectors")
    parser.add_argument("--seed", type=natural, default=0, help="seed for the bootstrap and balanced sampling")
    parser.add_argument("--metrics", required=True, type=Path, help="output: headline and all rows, JSON")
    parser.add_argument("--curves", required=True, type=Path, help="output: ROC and OSCR curves, CSV")
    parser.add_argument(
        "--activations", required=True, type=Path, help="output: maximum logit and feature norm of test images, CSV"
    )
    parser.add_argument("--predictions", type=Path, help="output: prediction for each test file, CSV")
    parser.add_argument("--split", type=Path, help="split.npz, required by --predictions")
    parser.add_argument("--description", type=Path, help="split.json, required by --predictions")
    parser.add_argument(
        "--prepared",
        action="append",
        default=[],
        type=Path,
        help="prepared datasets in the split's order, required by --predictions",
    )
    arguments = parser.parse_args()
    settings = arguments.settings
    compared_by = settings.get("headline", "maximum_logit")
    outputs = load_outputs(arguments.outputs)
    detected = {}
    if settings["detectors"]:
        if arguments.training is None:
            raise SettingsError("detectors are fitted to training images; give their outputs with --training")
        training = load_training_outputs(arguments.training, arguments.outputs)
        specifications = applicable(settings["detectors"], training)
        for left_out in (one["name"] for one in settings["detectors"] if one not in specifications):
            if left_out == compared_by:
                raise SettingsError(
                    f"runs are compared by the detector {left_out}, which computes with a linear head, and this "
                    "network has another kind; choose another evaluation.headline"
                )
            print(f"detector {left_out} is left out: it needs a linear head, and this network has another kind")
        detected = detect(specifications, training, outputs["features"], outputs["logits"])

    rows = evaluate(
        outputs,
        scores=settings["scores"],
        detected=detected,
        sampling=settings["sampling"],
        bootstrap=settings["bootstrap"],
        seed=arguments.seed,
    )
    points = [
        {"curve": name, "x": float(x), "y": float(y)}
        for name, curve in curves(outputs, compared_by, detected=detected).items()
        for x, y in zip(*curve, strict=True)
    ]
    write_rows(arguments.curves, points)
    write_rows(arguments.activations, sample_activations(outputs, settings["activation_samples"], arguments.seed))
    finite = [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in rows
    ]
    result = {"headline": headline(rows, compared_by), "rows": finite}
    validation = load_validation(arguments.outputs)
    operating = {}
    if validation is not None:
        points = operating_points(validation[:2], accept=[DEFAULT_ACCEPTANCE], source=VALIDATION)
        operating = {name: point for name, (point,) in points.items()}
        result["operating_points"] = {name: dataclasses.asdict(point) for name, point in operating.items()}
    if arguments.predictions:
        values = detected.get(compared_by)
        if values is None:
            values = score(compared_by, outputs["features"], outputs["logits"])
        write_predictions(arguments, outputs, compared_by, values, operating.get(compared_by))
    write_json(arguments.metrics, result)


def write_predictions(
    arguments: argparse.Namespace,
    outputs: dict[str, np.ndarray],
    compared_by: str,
    values: np.ndarray,
    point: OperatingPoint | None,
) -> None:
    """The prediction for each test image by its file and true class; an image of a catalogued dataset has a number."""
    from openset_distill.datasets.prepared import open_prepared, read_test_files
    from openset_distill.recognition.judgement import Judgement, write_predictions
    from openset_distill.recognition.own_outputs import OwnOutputs

    if not (arguments.split and arguments.description and arguments.prepared):
        raise SettingsError("--predictions names the split's images; give --split, --description and --prepared")
    arrays = read_npz(arguments.split, "the images of a split")
    known = read_record(arguments.description, {"known": list})["known"]
    datasets = [(open_prepared(folder), read_test_files(folder)) for folder in arguments.prepared]
    files, true = [], []
    try:
        for label, source, index in zip(outputs["labels"], arrays["test_source"], arrays["test_index"], strict=True):
            dataset, names = datasets[source]
            files.append(f"{dataset.name} {index}" if names is None else names[index])
            true.append(dataset.classes[dataset.test.labels[index]])
            if label >= 0 and known[label] != true[-1]:
                raise ValueError(f"{files[-1]} shows {true[-1]}, not {known[label]}")
    except (IndexError, ValueError, KeyError) as error:
        raise DataError(f"{arguments.outputs} is not of the images of {arguments.split} ({error}); {AGAIN}") from error
    own = OwnOutputs(
        classes=tuple(known),
        labels=outputs["labels"],
        predicted=outputs["logits"].argmax(axis=1),
        logits=outputs["logits"],
        features=None,
        scores=values,
        group=outputs["group_names"][outputs["group"]],
        files=tuple(files),
    )
    write_predictions(arguments.predictions, Judgement(own, (), {compared_by: values}, compared_by, point), true=true)


def sample_activations(outputs: dict[str, np.ndarray], samples: int, seed: int) -> list[dict[str, float]]:
    """At most `samples` test images, knowns and unknowns in their own proportion."""
    generator = np.random.default_rng(seed)
    n = len(outputs["labels"])
    chosen = np.sort(generator.permutation(n)[:samples])
    activation = {
        name: score(name, outputs["features"], outputs["logits"])[chosen] for name in ("maximum_logit", "feature_norm")
    }
    known = (outputs["group"][chosen] == 0).astype(int)
    return [
        {"known": int(known[i]), **{name: float(values[i]) for name, values in activation.items()}}
        for i in range(len(chosen))
    ]


if __name__ == "__main__":
    run(main)

"""A finished run of the workflow as a model folder.

A run's folder, `results/<experiment>/split<k>/seed<s>/<run>`, holds weights, settings, test outputs and provenance; the
folder around it holds the split. Runs of older versions have no outputs of validation images: they become models
without a threshold, which `calibrate` gives them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import CheckpointError, OpenSetError, SettingsError, nearest
from ..core.files import read_json, sha256
from ..evaluation.evaluate import check_weights, evaluate, load_outputs, load_validation
from ..evaluation.scores import SCORES
from ..evaluation.thresholds import DEFAULT_ACCEPTANCE, VALIDATION, VALIDATION_CHOSE, operating_points
from ..models.checkpoint import load_classifier
from .description import WEIGHTS
from .model import OpenSetClassifier

RESAMPLES = 1000  # of the intervals of the test metrics


def package_run(
    run: str | os.PathLike,
    *,
    split: str | os.PathLike | None = None,
    score: str = "maximum_logit",
    accept: Sequence[float] = (DEFAULT_ACCEPTANCE,),
    training_data: Mapping[str, Any] | None = None,
) -> OpenSetClassifier:
    """The model of a finished run, with thresholds from its validation images where it has their outputs.

    Args:
        run: folder with `weights.safetensors` and `config.json`; `outputs.npz` and `provenance.json` if there are any.
        split: `split.json`; by default the one in the folder around the run, if there is one.
        score: which score decides.
        accept: rates of accepted knowns that thresholds are chosen for.
        training_data: what the description says about the training data, beyond what the files know.

    Raises:
        CheckpointError: weights or settings are missing or damaged.
        DataError: the outputs are damaged.
    """
    run = Path(run)
    if score not in SCORES:
        raise SettingsError(f"unknown score {score!r}; {nearest(score, SCORES)}")
    if not (run / WEIGHTS).is_file():
        raise CheckpointError(
            f"{run} is not the folder of a finished run: it has no {WEIGHTS}; "
            "give results/<experiment>/split<k>/seed<s>/<run>, or let the training finish"
        )
    network, described = load_classifier(run / WEIGHTS)
    settings = _optional_json(run / "config.json")
    normalization = settings.get("normalization")
    if not isinstance(normalization, dict) or not {"mean", "std"} <= set(normalization):
        raise CheckpointError(
            f"{run / 'config.json'} is missing or has no normalization, without which the weights cannot be used; "
            "restore it next to the weights, or train the run again"
        )
    points, metrics = {}, ()
    if (run / "outputs.npz").is_file():
        check_weights(run / "outputs.npz", sha256(run / WEIGHTS), run / WEIGHTS)
        metrics = test_metrics(run / "outputs.npz", score, seed=int(settings.get("seed", 0)))
        validation = load_validation(run / "outputs.npz")
        if validation is not None:
            chosen = settings.get("optimization", {}).get("select") == "best_validation_accuracy"
            source = VALIDATION_CHOSE if chosen else VALIDATION
            points = operating_points(validation[:2], accept=accept, source=source)
    provenance = _optional_json(run / "provenance.json")
    description = Path(split) if split is not None else run.parent / "split.json"
    return OpenSetClassifier.assemble(
        network,
        described,
        mean=normalization["mean"],
        std=normalization["std"],
        score=score,
        operating_points=points,
        metrics=metrics,
        settings=settings,
        provenance=provenance,
        training_data={**_training_data(description, provenance), **(training_data or {})},
    )


def test_metrics(outputs: Path, score: str, *, seed: int) -> tuple[dict[str, Any], ...]:
    """Rows of `evaluation.evaluate` for one score, with intervals; NaN becomes None, as JSON has none."""
    arrays = load_outputs(outputs, closed=True)
    rows = evaluate(arrays, scores=[score], bootstrap=RESAMPLES, seed=seed, closed=True)
    return tuple(
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in rows
    )


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    contents = read_json(path)
    if not isinstance(contents, dict):
        raise OpenSetError(f"{path} does not hold a mapping; restore it, or remove it")
    return contents


def _training_data(split: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's split and provenance know about its training images.

    The fingerprint is the SHA-256 of the prepared data's manifest, which holds the hashes of all images: of the file
    itself where it is here, else as the run's provenance has it.
    """
    data: dict[str, Any] = {}
    inputs = provenance.get("inputs_sha256", {})
    manifest = next((path for path in inputs if Path(path).name == "manifest.json"), None)
    if manifest is not None:
        data["fingerprint"] = inputs[manifest]
        if Path(manifest).is_file() and sha256(manifest) == inputs[manifest]:
            prepared = read_json(manifest)
            data["licence"] = prepared.get("licence") or None
            data["sources"] = prepared.get("sources")
    if split.is_file():
        described = _optional_json(split)
        counts = described.get("counts", {})
        unknown = described.get("unknown", {})
        data |= {
            "dataset": described.get("dataset"),
            "protocol": described.get("protocol"),
            "split": described.get("split"),
            "images": counts.get("train"),
            "validation_images": counts.get("validation"),
            "unknown_classes": [name for names in unknown.values() for name in names],
        }
    return data

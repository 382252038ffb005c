"""MODEL_CARD.md: what a model is, was trained on, reaches and cannot do, in the form that model hubs read.

The front matter has the keys of Hugging Face's model cards. Everything is generated from `model.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..evaluation.thresholds import VALIDATION_CHOSE, OperatingPoint, Rate
from .description import UNKNOWN, ModelDescription

OWN = "image_folder"  # what the catalog calls a user's own images
METRIC_NAMES = {
    "accuracy": "Closed-set accuracy",
    "auroc": "AUROC, known against unknown",
    "oscr": "OSCR",
    "fpr95": "FPR at 95 % TPR",
}


def model_card(description: ModelDescription) -> str:
    """The text of the card."""
    metrics = _of_score(description.metrics, description.score)
    points = description.operating_points.get(description.score, ())
    parts = [
        _front_matter(description, metrics),
        f"# {_title(description)}",
        "It predicts one of its classes, or `unknown`, for an image.",
        "## Classes",
        ", ".join(f"`{_code(name)}`" for name in description.classes),
        "## Model",
        _table(("what", "value"), _model_rows(description)),
        "## Training data",
        _training_data(description),
        "## Metrics",
        _metrics(metrics),
        "## Operating points",
        _operating_points(description.score, points),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(description, points)),
        "## Use",
        "```sh\nopenset predict MODEL image.jpg folder/\n```\n\n"
        "```python\nfrom openset_distill import OpenSetClassifier\n\n"
        'model = OpenSetClassifier.load("MODEL")\nmodel.predict(["image.jpg"])\n```',
    ]
    return "\n\n".join(parts) + "\n"


def _title(description: ModelDescription) -> str:
    return f"Open-set classifier of {len(description.classes)} classes"


def _front_matter(description: ModelDescription, metrics: Sequence[Mapping[str, Any]]) -> str:
    """YAML between dashes. Strings are written as JSON, which YAML reads as they are, whatever is in them."""
    lines = [
        "---",
        "library_name: openset-distill",
        "pipeline_tag: image-classification",
        "tags:",
        "- open-set-recognition",
        "- out-of-distribution-detection",
    ]
    dataset = str(description.training_data.get("dataset") or OWN)
    if metrics:
        lines += [
            "model-index:",
            "- name: " + json.dumps(_title(description)),
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            "      name: " + json.dumps("own images" if dataset == OWN else dataset),
            "      type: " + json.dumps(dataset),
            "    metrics:",
        ]
        for row in metrics:
            lines += [f"    - type: {row['metric']}", f"      name: {METRIC_NAMES[row['metric']]}, fraction"]
            lines += [f"      value: {row['value']:.4f}"]
    return "\n".join([*lines, "---"])


def _model_rows(description: ModelDescription) -> list[tuple[str, str]]:
    backbone, preprocessing = description.architecture.backbone, description.preprocessing
    method = description.settings.get("method", {})
    size = f"{preprocessing.image_size} x {preprocessing.image_size} pixels"
    rows = [
        ("backbone", _backbone(backbone)),
        ("head", _text(description.architecture.head.replace("_", " "))),
        (
            "input",
            f"{size}, {'RGB' if preprocessing.channels == 3 else 'grey'}; shorter side resized, central square kept",
        ),
    ]
    inner = backbone.get("input_size")
    if inner and inner != preprocessing.image_size:
        change = "enlarged" if inner > preprocessing.image_size else "reduced"
        rows.append(("inside the network", f"{change} to {inner} x {inner} pixels"))
    rows.append(("score", f"`{description.score}`, larger = more known"))
    if method:
        rows.append(("trained with", _text(str(method.get("name", "")).replace("_", " "))))
    epochs = description.settings.get("optimization", {}).get("epochs")
    if epochs:
        rows.append(("trained for", f"{_text(epochs)} epochs" + (" of the head" if backbone.get("freeze") else "")))
    if "git_commit" in description.provenance:
        rows.append(("code", f"`{description.provenance['git_commit'] or 'no commit recorded'}`"))
    rows.append(("weights (SHA-256)", f"`{description.weights_sha256}`"))
    return rows


# settings that the card says in words, or in another row
_IN_WORDS = ("name", "model", "freeze", "pretrained", "weights", "input_size", "views", "mean", "std")


def _backbone(backbone: Mapping[str, Any]) -> str:
    """The backbone in words, for example `efficientnet_lite0` with trained weights, frozen."""
    name = str(backbone.get("name", ""))
    words = [f"`{_code(backbone.get('model'))}` of timm" if name == "timm" else f"`{_code(name)}`"]
    if backbone.get("pretrained") or backbone.get("weights"):
        words[0] += " with trained weights"
    if backbone.get("freeze"):
        words.append("frozen: only the head was trained")
    for key, value in backbone.items():
        if key not in _IN_WORDS and value not in (None, False, [], ()):
            listed = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            words.append(_text(key.replace("_", " ") + ("" if value is True else f" {listed}")))
    return "; ".join(words)


def _training_data(description: ModelDescription) -> str:
    data = description.training_data
    if not data:
        return "Not recorded."
    named = {
        "dataset": "dataset",
        "images": "training images",
        "validation_images": "validation images",
        "fingerprint": "fingerprint (SHA-256)",
        "licence": "licence of the data",
    }
    data = {**data, "dataset": "own images" if data.get("dataset") == OWN else data.get("dataset")}
    rows = [(label, _text(data[key])) for key, label in named.items() if data.get(key) is not None]
    if data.get("unknown_classes") not in (None, [], [UNKNOWN]):  # the folder of all that is unknown says nothing
        rows.append(("unknown classes of the test", _text(", ".join(map(str, data["unknown_classes"])))))
    return _table(("what", "value"), rows)


def _of_score(metrics: Iterable[Mapping[str, Any]], score: str) -> list[Mapping[str, Any]]:
    return [
        row
        for row in metrics
        if row["metric"] in METRIC_NAMES
        and row.get("sampling", "full") == "full"
        and (row.get("group") == "known" or (row["score"] == score and row.get("group") == "all"))
    ]


def _metrics(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return "Not measured. Measure them with `openset evaluate MODEL FOLDER --unknown FOLDER`."
    rows = []
    for row in metrics:
        interval = "" if row["low"] is None else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"
        rows.append(
            (
                METRIC_NAMES[row["metric"]],
                f"{100 * row['value']:.1f}",
                interval,
                str(row["n_known"]),
                str(row["n_unknown"]),
            )
        )
    return (
        _table(("metric", "%", "95 % interval", "known images", "unknown images"), rows)
        + "\n\nIntervals cover the choice of test images, not the randomness of training."
    )


def _operating_points(score: str, points: Sequence[OperatingPoint]) -> str:
    if not points:
        return (
            "None: the model cannot predict `unknown` yet. Calibrate it with `openset calibrate MODEL --known FOLDER` "
            "on images that it was not trained on."
        )
    rows = [
        (
            point.name + (" (default)" if number == 0 else ""),
            f"{point.threshold:.6g}",
            rate_in_words(point.known),
            rate_in_words(point.unknown) if point.unknown else "not measured",
            _text(point.source),
        )
        for number, point in enumerate(points)
    ]
    header = ("operating point", "threshold", "knowns accepted", "unknowns accepted", "calibrated on")
    return f"Score: `{score}`. Images whose score is below the threshold are `unknown`.\n\n" + _table(header, rows)


def rate_in_words(rate: Rate) -> str:
    """For example `95.2 % (91.0 to 97.8, n = 250)`; the interval is exact, 95 %."""
    return f"{100 * rate.rate:.1f} % ({100 * rate.low:.1f} to {100 * rate.high:.1f}, n = {rate.images})"


def _limits(description: ModelDescription, points: Sequence[OperatingPoint]) -> list[str]:
    lines = [
        "Rates apply to images like those used for calibration; other cameras, seasons or crops shift them.",
        "An image of something that looks like a known class can be accepted; how often depends on what it shows.",
        "Probabilities only compare the known classes. They do not tell whether an image belongs to any of them.",
    ]
    if description.pretrained:
        lines.append(
            "The backbone started from pretrained weights. Pretraining may have seen the unknowns, so the metrics are "
            "no evidence about how well truly new classes are rejected."
        )
    if any(point.source == VALIDATION_CHOSE for point in points):
        lines.append(
            "The images that set the threshold also selected the epoch, so its rates are slightly optimistic; "
            "calibrate on other images with `openset calibrate`."
        )
    warned = [point.warning() for point in points]
    return lines + [f"{line[0].upper()}{line[1:]}." for line in warned if line]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _text(value: object) -> str:
    """Text inside a table's cell: what Markdown would interpret is escaped."""
    text = " ".join(str(value).split())
    for character in "\\|`*_<>[]$":
        text = text.replace(character, "\\" + character)
    return text


def _code(value: object) -> str:
    """Text between backquotes, in a table or not."""
    return " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")

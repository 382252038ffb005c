"""Writes dvc.yaml from the workflow, or checks that it still says what the workflow does.

    python tools/dvc_stages.py --write
    python tools/dvc_stages.py --check

Snakemake owns the commands and their order. A DVC stage is coarse: it calls Snakemake for some rules and records the
hashes of what they made, so that `dvc push` and `dvc pull` carry it elsewhere. The last stage, `records`, carries
Snakemake's own records of what it made from what, so that it finds nothing to do elsewhere either.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import yaml

from openset_distill.config.experiment import Experiment, load
from openset_distill.core.command import run
from openset_distill.core.errors import OpenSetError
from openset_distill.report.tidy import CHECKSUMS

CONFIGURATION = "config/config.yaml"
RULES = {
    "data": ["download_dataset", "prepare_dataset"],
    "split": [
        "make_split",
        "fetch_weights",
        "train_teacher",
        "cache_teacher_logits",
        "train_student",
        "training_outputs",
        "evaluate",
        "scan_mixing",
        "measure_feature_geometry",
        "compute_gradcam",
        "embed_features",
    ],
    "tidy": ["aggregate"],
}
# what Snakemake knows of each file it made: settings, code and hashes of the inputs
RECORDS = ".snakemake/metadata"
STEPS_OF_SPLIT = (
    "split",
    "train",
    "cache_teacher_logits",
    "training_outputs",
    "evaluate",
    "scan_mixing",
    "feature_geometry",
    "gradcam",
    "embed",
)
HEADER = f"# Written by `python tools/dvc_stages.py --write` from {CONFIGURATION}; do not edit by hand.\n"


def snakemake(rules: list[str], targets: list[str], code: list[str]) -> str:
    """The command of a stage. `touch` makes Snakemake compare the contents of code that DVC has seen change."""
    return f"touch -ch {' '.join(code)} && snakemake --allowed-rules {' '.join(rules)} -- {shlex.join(targets)}"


def stage(
    rules: list[str],
    targets: list[str],
    code: list[str],
    deps: list[str],
    outs: list[str],
    metrics: list[str] | None = None,
) -> dict[str, Any]:
    """`persist`: DVC must not delete what Snakemake is about to find complete."""
    made: dict[str, Any] = {
        "cmd": snakemake(rules, targets, code),
        "deps": sorted(code) + deps,
        "params": [{CONFIGURATION: None}],
        "outs": [{out: {"persist": True}} for out in outs],
    }
    if metrics:
        made["metrics"] = [{metric: {"persist": True}} for metric in metrics]
    return made


def stages(experiment: Experiment) -> dict[str, Any]:
    """One stage for the data, one a split, one for the tidy tables, one for the figures, one for the tables."""
    settings = experiment.settings
    results = f"{settings.results}/{experiment.name}"
    datasets = [settings.data.dataset, *settings.data.others]
    prepared = [experiment.prepared(dataset) for dataset in datasets]
    scripts = {
        name: f"workflow_scripts/{name}.py"
        for name in (
            "download",
            "prepare",
            *STEPS_OF_SPLIT,
            "aggregate",
            "figure",
            "table",
        )
    }
    made: dict[str, Any] = {
        "data": stage(
            RULES["data"],
            [f"{folder}/manifest.json" for folder in prepared],
            [scripts["download"], scripts["prepare"]],
            [],
            [experiment.raw(dataset) for dataset in datasets] + prepared,
        )
    }
    of_split = [scripts[name] for name in STEPS_OF_SPLIT]
    for split in experiment.splits:
        folders = [f"{results}/split{split}/seed{seed}" for seed in experiment.seeds]
        targets = [f"{folder}/{run}/metrics.json" for folder in folders for run in experiment.runs]
        targets += [f"{folder}/{file}" for folder in folders for file in ("mixing.csv", "features.csv")]
        if split == experiment.splits[0]:
            first = f"{results}/split{{split}}/seed{{seed}}"
            targets += [f"{experiment.first(first)}/attention.csv", *experiment.embeddings(first)]
        made[f"split{split}"] = stage(RULES["split"], targets, of_split, prepared, [f"{results}/split{split}"])
    splits = [f"{results}/split{split}" for split in experiment.splits]
    tidy = [
        f"{results}/tidy/{name}.csv"
        for name in (
            "runs",
            "summary",
            "history",
            "curves",
            "activations",
            "mixing",
            "networks",
            "features",
            "attention",
            "pictures",
            "embedding",
        )
    ]
    tidy.append(f"{results}/tidy/{CHECKSUMS}")
    headline = f"{results}/tidy/headline.json"
    made["tidy"] = stage(RULES["tidy"], [headline], [scripts["aggregate"]], splits, tidy, [headline])
    figures, tables = experiment.figures, experiment.tables
    made["figures"] = stage(
        [f"figure_{name}" for name in figures],
        [f"{results}/figures/{name}.pdf" for name in figures],
        [scripts["figure"]],
        ["src/openset_distill/report/figures", *tidy],
        [f"{results}/figures"],
    )
    made["tables"] = stage(
        [f"table_{name}" for name in tables],
        [f"{results}/tables/{name}.md" for name in tables],
        [scripts["table"], *[f"src/openset_distill/report/tables/{name}.py" for name in tables]],
        ["config/reference/published_results.csv", *tidy],
        [f"{results}/tables"],
    )
    made["records"] = {
        # the order: after every other stage, because each of them changes the records
        "cmd": f"test -d {RECORDS}",
        "deps": [headline, f"{results}/figures", f"{results}/tables"],
        "outs": [{RECORDS: {"persist": True}}],
    }
    return {"stages": made, "plots": plots(results, figures)}


def plots(results: str, figures: tuple[str, ...]) -> list[dict[str, Any]]:
    """What `dvc plots show` and `dvc plots diff` draw, by the templates in .dvc/plots: training, and the two sides."""
    history, two_sides = f"{results}/tidy/history.csv", f"{results}/figures/two_sides.csv"
    drawn = [
        _plot("Training loss", history, ("epoch", "Epoch"), ("train_loss", "Training loss"), "mean_by_run"),
        _plot(
            "Accuracy in training",
            history,
            ("epoch", "Epoch"),
            ("validation_accuracy", "Validation accuracy"),
            "mean_by_run",
        ),
    ]
    if "two_sides" in figures:
        x, y = ("accuracy_percent", "Closed-set accuracy (%)"), ("auroc_percent", "Open-set AUROC (%)")
        drawn.append(_plot("Two sides", two_sides, x, y, "point_by_run"))
    return drawn


def _plot(title: str, file: str, x: tuple[str, str], y: tuple[str, str], template: str) -> dict[str, Any]:
    """A plot of one file; `x` and `y` are column and label."""
    drawn = {"x": x[0], "y": {file: y[0]}, "x_label": x[1], "y_label": y[1], "title": title, "template": template}
    return {title: drawn}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write dvc.yaml")
    action.add_argument("--check", action="store_true", help="fail if dvc.yaml differs from the workflow")
    parser.add_argument("--file", type=Path, default=Path("dvc.yaml"), help="the file (default: dvc.yaml)")
    arguments = parser.parse_args()
    experiment = load({}, stands_alone=False, default=CONFIGURATION)
    text = HEADER + yaml.safe_dump(stages(experiment), sort_keys=False, width=10_000)
    if arguments.write:
        arguments.file.write_text(text, encoding="utf-8")
    elif not arguments.file.exists() or arguments.file.read_text(encoding="utf-8") != text:
        raise OpenSetError(
            f"{arguments.file} is not what the workflow does now; run `python tools/dvc_stages.py --write`"
        )


if __name__ == "__main__":
    run(main)

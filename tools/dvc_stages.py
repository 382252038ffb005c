"""Generates dvc.yaml from the workflow, or checks that it is up to date.

    python tools/dvc_stages.py --write
    python tools/dvc_stages.py --check

Snakemake owns the commands and their order. A DVC stage is coarse: it calls Snakemake for some rules and records the
hashes of their outputs, so that `dvc push` and `dvc pull` can transfer them. The last stage, `records`, versions
Snakemake's metadata, so that Snakemake finds nothing to do in a clone either.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
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
    "runs": [
        "paper_runs",
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
# a file for each figure and table
DRAWING = ("src/openset_distill/report/figures", "src/openset_distill/report/tables")
# what Snakemake knows of each file it made: settings, code and hashes of the inputs
RECORDS = ".snakemake/metadata"
STEPS_OF_RUNS = (
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
    also: Sequence[str] = (),
) -> dict[str, Any]:
    """`persist`: DVC must not delete what Snakemake is about to find complete.

    Args:
        also: patterns of code that is in a folder among `deps`.
    """
    made: dict[str, Any] = {
        "cmd": snakemake(rules, targets, [*code, *also]),
        "deps": sorted(code) + deps,
        "params": [{CONFIGURATION: None}],
        "outs": [{out: {"persist": True}} for out in outs],
    }
    if metrics:
        made["metrics"] = [{metric: {"persist": True}} for metric in metrics]
    return made


def stages(experiment: Experiment) -> dict[str, Any]:
    """One stage for the data, one for the runs, one for the tidy tables, one for figures and tables.

    So few, because each starts Snakemake, which takes seconds to find that there is nothing to do.
    """
    settings = experiment.settings
    results = f"{settings.results}/{experiment.name}"
    datasets = [settings.data.dataset, *settings.data.others]
    prepared = [experiment.prepared(dataset) for dataset in datasets]
    scripts = {
        name: f"workflow_scripts/{name}.py"
        for name in (
            "download",
            "prepare",
            *STEPS_OF_RUNS,
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
    splits = [f"{results}/split{split}" for split in experiment.splits]
    made["runs"] = stage(RULES["runs"], ["paper_runs"], [scripts[name] for name in STEPS_OF_RUNS], prepared, splits)
    tidy = [f"{results}/tidy/{name}.csv" for name in experiment.tidy_tables]
    tidy.append(f"{results}/tidy/{CHECKSUMS}")
    headline = f"{results}/tidy/headline.json"
    # a file a run: DVC shows a row for each
    metrics = [f"{results}/metrics/{run}.json" for run in experiment.runs]
    made["tidy"] = stage(RULES["tidy"], [headline], [scripts["aggregate"]], splits, [*tidy, headline], metrics)
    figures, tables = experiment.figures, experiment.tables
    made["figures"] = stage(
        ["paper_figures", *[f"figure_{name}" for name in figures], *[f"table_{name}" for name in tables]],
        ["paper_figures"],
        [scripts["figure"], scripts["table"]],
        ["config/reference/published_results.csv", *DRAWING, *tidy],
        [f"{results}/figures", f"{results}/tables"],
        also=[f"{folder}/*.py" for folder in DRAWING],
    )
    made["records"] = {
        # the order: after every other stage, because each of them changes the records
        "cmd": f"test -d {RECORDS}",
        "deps": [headline, f"{results}/figures", f"{results}/tables"],
        "outs": [{RECORDS: {"persist": True}}],
    }
    # pictures: a page of them needs no internet, as DVC's own plots do
    return {"stages": made, "plots": [f"{results}/figures/{name}.png" for name in figures]}


def main() -> None:
    """Writes dvc.yaml from the rules of the workflow, or compares it with them."""
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
            f"{arguments.file} is out of date with the workflow; run `python tools/dvc_stages.py --write`"
        )


if __name__ == "__main__":
    run(main)

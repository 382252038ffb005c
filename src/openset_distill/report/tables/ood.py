"""Detection of the images of other datasets, dataset by dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...core.errors import DataError
from ...datasets import catalog
from .. import tidy
from ..context import Context, score_words
from .common import LOWER_IS_BETTER, METRIC_TITLES, SPREAD, Content, printed, spread, with_arrow
from .formats import Block, Cell

METRICS = ("auroc", "fpr95", "aupr_known", "aupr_unknown")
MEAN = "Mean over the datasets"


def make(tables: Mapping[str, pd.DataFrame], context: Context) -> Content:
    """A section a dataset, a row a main run; `tables` needs `runs`, with a group of unknowns for each dataset."""
    runs = tables["runs"]
    groups = [group for group in runs["group"].unique() if group not in ("all", "known", "")]
    if len(groups) < 2:
        raise DataError(
            "table 'ood' has nothing to show: its unknowns are in one group; name several datasets in data.others and "
            "use the protocol all_known, or leave the table out of show.tables"
        )
    picked = tidy.pick(context, runs)
    shown = picked.main(distillation=True) or tidy.in_family_order(runs)
    tidy.require_runs("table 'ood'", shown, f"a run with metrics of the {score_words(context.score)}")
    labels = tidy.labels(runs)
    values = {
        (group, metric): tidy.of_class_sets(tidy.pair_values(runs, metric, score=context.score, group=group)).reindex(
            columns=shown
        )
        for group in groups
        for metric in METRICS
    }
    for metric in METRICS:
        values[MEAN, metric] = sum(values[group, metric] for group in groups) / len(groups)

    best = {place: _best(table.mean().map(printed), place[1]) for place, table in values.items()}
    body: list[Sequence[Cell] | str] = []
    for group in (*groups, MEAN):
        body.append(catalog.datasets()[group].title if group in catalog.datasets() else group)
        for run in shown:
            cells = [Cell(labels[run])]
            for metric in METRICS:
                column = values[group, metric][run]
                cells.append(Cell(spread(column.mean(), column.std(ddof=1)), run in best[group, metric]))
            body.append(cells)
    data = pd.DataFrame(
        [
            {
                "group": "mean" if group == MEAN else group,
                "run": run,
                "label": labels[run],
                "metric": metric,
                "n": int(table[run].count()),
                "mean_percent": table[run].mean(),
                "std_percent": table[run].std(ddof=1),
                "best": run in best[group, metric],
            }
            for (group, metric), table in values.items()
            for run in shown
        ]
    )
    note = (
        f"{SPREAD} in percent, score: {score_words(context.score)}, all test images. AUPR known "
        "takes the known images as positive, AUPR unknown the others; both depend on how many there are. "
        "Bold: the best run."
    )
    block = Block(
        header=["Run", *(with_arrow(METRIC_TITLES[metric], metric) for metric in METRICS)],
        rows=body,
        note=" ".join(filter(None, (note, picked.note(*tidy.STORY, "distillation")))),
    )
    return Content([block], data, counts=list(data["n"]))


def _best(means: pd.Series, metric: str) -> set[str]:
    top = means.min() if metric in LOWER_IS_BETTER else means.max()
    return set(means.index[means == top]) if means.count() > 1 else set()

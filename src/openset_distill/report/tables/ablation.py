"""The ablation of asymmetric distillation: each row and its difference to the first."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from .. import tidy
from ..context import Context, score_words
from .common import METRIC_TITLES, SPREAD, Content, interval, spread, top_of
from .formats import Block, Cell


def make(tables: Mapping[str, pd.DataFrame], context: Context) -> Content:
    """A row a run of the ablation; `tables` needs `runs`."""
    runs = tables["runs"]
    picked = tidy.pick(context, runs)
    rows = list(picked.ablation)
    tidy.require_runs("table 'ablation'", rows[1:], "two runs of the ablation")
    labels = tidy.labels(runs)
    metrics = ("accuracy", "auroc", "oscr")
    statistics, counts = {}, []
    for metric in metrics:
        values = tidy.pair_values(runs, metric, score=context.score).reindex(columns=rows)
        compared = tidy.paired_differences(values, rows[0], rows)
        values = tidy.of_class_sets(values)
        statistics[metric] = compared.assign(mean=values.mean(), std=values.std(ddof=1), n=values.count())
        counts += list(values.count())
    best = {metric: top_of(statistics[metric]["mean"]) for metric in metrics}
    body = []
    for run in rows:
        cells = [Cell(labels[run])]
        for metric in metrics:
            row = statistics[metric].loc[run]
            cells.append(Cell(spread(row["mean"], row["std"]), run in best[metric]))
            cells.append(Cell(interval(row["difference"], row["low"], row["high"])))
        body.append(cells)
    parts = []
    for metric in metrics:
        part = statistics[metric].rename(
            columns={name: f"{name}_percent" for name in ("mean", "std", "difference", "low", "high")}
        )
        part.insert(0, "run", part.index)
        part.insert(1, "label", [labels[run] for run in rows])
        part.insert(2, "metric", metric)
        parts.append(part.assign(best=[run in best[metric] for run in rows]))
    names = ["run", "label", "metric", "n", "mean_percent", "std_percent", "best"]
    names += ["difference_percent", "low_percent", "high_percent", "pairs"]
    note = (
        f"{SPREAD} in percent, score: {score_words(context.score)}. Differences in points to "
        f"{labels[rows[0]]} over the same class sets, {tidy.interval_words(statistics['auroc']['pairs'])}. "
        "Bold: the best row."
    )
    return Content(
        blocks=[
            Block(
                header=["Run", *["Mean", "Difference"] * len(metrics)],
                rows=body,
                spans=[("", 1), *((METRIC_TITLES[metric], 2) for metric in metrics)],
                note=" ".join(filter(None, (note, picked.note("ablation")))),
            )
        ],
        data=pd.concat(parts, ignore_index=True)[names],
        counts=counts,
    )

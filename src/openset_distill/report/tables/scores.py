"""Open-set scores and detectors of the main runs, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from .. import tidy
from ..context import SCORE_TITLES, Context
from ..summary import summarized
from .common import METRIC_TITLES, SPREAD, Content, best_of, mean_cell, with_arrow
from .formats import Block, Cell


def make(tables: Mapping[str, pd.DataFrame], context: Context) -> Content:
    """A section a run, a row a score; `tables` needs `runs`."""
    summary = summarized(tables["runs"], tidy.pick(context, tables["runs"]).baseline)
    picked = tidy.pick(context, summary)
    runs = picked.main(distillation=True) or tidy.in_family_order(summary)
    labels = tidy.labels(summary)
    metrics = ("auroc", "oscr", "fpr95")
    rows = summary[summary["metric"].isin(metrics) & (summary["group"] == "all") & summary["run"].isin(runs)]
    tidy.require_runs("table 'scores'", list(rows["run"]), "a run with AUROC, OSCR or FPR95")
    samplings = [name for name in ("full", "balanced") if name in set(rows["sampling"])]
    scores = [name for name in SCORE_TITLES if name in set(rows["score"])]
    scores += sorted(set(rows["score"]) - set(scores))
    by_place = rows.set_index(["run", "score", "metric", "sampling"])
    body: list[Sequence[Cell] | str] = []
    winners = set()
    for run in runs:
        body.append(labels[run])
        best = {}
        for metric in metrics:
            for sampling in samplings:
                keys = [(run, score, metric, sampling) for score in scores]
                best[metric, sampling] = best_of(by_place, keys, metric)
                winners |= best[metric, sampling]
        for score in scores:
            cells = [Cell(SCORE_TITLES.get(score, score))]
            for metric, sampling in best:
                cells.append(mean_cell(by_place, (run, score, metric, sampling), best[metric, sampling]))
            body.append(cells)
    data = rows[["run", "label", "family", "score", "metric", "sampling", "n"]].assign(
        mean_percent=100 * rows["mean"], std_percent=100 * rows["std"]
    )
    data["best"] = [
        key in winners for key in zip(rows["run"], rows["score"], rows["metric"], rows["sampling"], strict=True)
    ]
    data["order"] = data["run"].map({run: position for position, run in enumerate(runs)})
    data = data.sort_values("order", kind="stable").drop(columns="order")
    note = (
        f"{SPREAD} in percent. Full: all test images. Balanced: as many unknowns as "
        "knowns, drawn anew for each split and seed. Bold: the best score of a run."
    )
    return Content(
        blocks=[
            Block(
                header=["Score", *samplings * len(metrics)],
                rows=body,
                spans=[("", 1), *((with_arrow(METRIC_TITLES[m], m), len(samplings)) for m in metrics)],
                note=" ".join(filter(None, (note, picked.note(*tidy.STORY, "distillation")))),
            )
        ],
        data=data,
        counts=list(rows["n"]),
    )

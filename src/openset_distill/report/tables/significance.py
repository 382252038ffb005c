"""Paired comparisons of runs over class sets, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...evaluation import statistics
from .. import tidy
from ..context import Context, score_words
from .common import METRIC_TITLES, Content, comparison_words, effect, interval, probability
from .formats import Block, Cell

METRICS = ("accuracy", "auroc", "oscr")


def make(tables: Mapping[str, pd.DataFrame], context: Context) -> Content:
    """A section for the baseline and one for plain distillation; `tables` needs `runs`."""
    runs = tables["runs"]
    labels, families = tidy.labels(runs), tidy.families(runs)
    picked = tidy.pick(context, runs)
    students = [run for run in tidy.in_family_order(runs) if families[run] != "teacher"]
    compared = [(run, reference) for reference in picked.baseline for run in students if run != reference]
    compared += [(run, reference) for reference in picked.distillation for run in picked.asymmetric if run != reference]
    tidy.require_runs("table 'significance'", [run for run, _ in compared], "the baseline and another run")

    parts = []
    for metric in METRICS:
        values = tidy.pair_values(runs, metric, score=context.score).reindex(columns=list(labels))
        found = [tidy.paired(values, run, reference) for run, reference in compared]
        values = tidy.of_class_sets(values)
        part = pd.DataFrame(
            {
                "run": [run for run, _ in compared],
                "label": [labels[run] for run, _ in compared],
                "reference": [reference for _, reference in compared],
                "metric": metric,
                "pairs": [difference.n for difference in found],
                "mean_percent": [values[run].mean() for run, _ in compared],
                "reference_mean_percent": [values[reference].mean() for _, reference in compared],
                "difference_percent": [difference.difference for difference in found],
                "low_percent": [difference.low for difference in found],
                "high_percent": [difference.high for difference in found],
                "effect_size": [difference.effect_size for difference in found],
                "p_value": [difference.p_value for difference in found],
            }
        )
        parts.append(part.assign(p_holm=statistics.holm(part["p_value"])))
    data = pd.concat(parts, ignore_index=True)

    by_place = data.set_index(["run", "reference", "metric"])
    body: list[Sequence[Cell] | str] = []
    for position, (run, reference) in enumerate(compared):
        if position == 0 or reference != compared[position - 1][1]:
            body.append(f"Against {labels[reference]}")
        cells = [Cell(labels[run]), Cell(str(by_place.loc[run, reference, METRICS[0]]["pairs"]))]
        for metric in METRICS:
            row = by_place.loc[run, reference, metric]
            cells.append(Cell(interval(row["difference_percent"], row["low_percent"], row["high_percent"])))
            cells += [
                Cell(effect(row["effect_size"])),
                Cell(probability(row["p_value"])),
                Cell(probability(row["p_holm"])),
            ]
        body.append(cells)
    counts = [int(n) for n in data["pairs"]]
    note = (
        f"n: class sets. Differences in points, score: {score_words(context.score)}. {comparison_words(counts)} "
        f"Holm: p corrected for the {len(compared)} comparisons of a metric."
    )
    block = Block(
        header=["Run", "n", *["Difference", "d_z", "p", "Holm"] * len(METRICS)],
        rows=body,
        spans=[("", 2), *((METRIC_TITLES[metric], 4) for metric in METRICS)],
        note=" ".join(filter(None, (note, picked.note("baseline", "distillation", "asymmetric")))),
    )
    return Content([block], data, counts)

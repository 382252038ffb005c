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
    """A grid for each metric, with a section for the baseline and one for plain distillation; `tables` needs `runs`."""
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
    counts = [int(n) for n in data["pairs"]]
    note = (
        f"n: class sets. Differences in points, score: {score_words(context.score)}. {comparison_words(counts)} "
        f"Holm: p corrected for the {len(compared)} comparisons of a metric."
    )
    notes = {METRICS[-1]: " ".join(filter(None, (note, picked.note("baseline", "distillation", "asymmetric"))))}
    blocks = [
        Block(
            header=["Run", "Difference", "d_z", "p", "Holm", "n"],
            rows=_rows(compared, labels, by_place.xs(metric, level="metric")),
            heading=METRIC_TITLES[metric],
            note=notes.get(metric, ""),
        )
        for metric in METRICS
    ]
    return Content(blocks, data, counts)


def _rows(
    compared: Sequence[tuple[str, str]], labels: Mapping[str, str], of_metric: pd.DataFrame
) -> list[Sequence[Cell] | str]:
    """A row for each comparison by one metric, under a line for each reference."""
    body: list[Sequence[Cell] | str] = []
    for position, (run, reference) in enumerate(compared):
        if position == 0 or reference != compared[position - 1][1]:
            body.append(f"Against {labels[reference]}")
        row = of_metric.loc[run, reference]
        texts = [
            labels[run],
            interval(row["difference_percent"], row["low_percent"], row["high_percent"]),
            effect(row["effect_size"]),
            probability(row["p_value"]),
            probability(row["p_holm"]),
            str(row["pairs"]),
        ]
        body.append([Cell(text) for text in texts])
    return body

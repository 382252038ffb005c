"""Open-set performance by the difficulty of the unknown classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...core.errors import DataError
from .. import tidy
from ..context import Context, score_words
from .common import METRIC_TITLES, SPREAD, Content, spread, top_of
from .formats import Block, Cell

DIFFICULTIES = ("easy", "medium", "hard")
BOTH = "medium + hard"


def make(tables: Mapping[str, pd.DataFrame], context: Context) -> Content:
    """A row a run; `tables` needs `runs`, with groups of unknowns called easy, hard and perhaps medium."""
    runs = tables["runs"]
    groups = [group for group in DIFFICULTIES if group in set(runs["group"])]
    if len(groups) < 2:
        raise DataError(
            "table 'semantic_shift' has nothing to show: its unknowns are in no groups 'easy' and 'hard'; "
            "use a protocol of the semantic shift benchmarks, or leave the table out of show.tables"
        )
    columns = [*groups, *([BOTH] if "medium" in groups else []), "all"]
    values = {("accuracy", ""): tidy.pair_values(runs, "accuracy")}
    for metric in ("auroc", "oscr"):
        values |= {(metric, group): _of_group(runs, metric, group, context.score) for group in columns}

    values = {place: tidy.of_class_sets(table) for place, table in values.items()}
    labels, families = tidy.labels(runs), tidy.families(runs)
    students = [run for run in labels if families[run] != "teacher"]
    best = {place: top_of(table.reindex(columns=students).mean()) for place, table in values.items()}
    body: list[Sequence[Cell] | str] = []
    for family, title in tidy.FAMILIES.items():
        members = [run for run in labels if families[run] == family]
        if members:
            body.append(title)
        for run in members:
            cells = [Cell(labels[run])]
            for place, table in values.items():
                cells.append(Cell(spread(table[run].mean(), table[run].std(ddof=1)), run in best[place]))
            body.append(cells)
    data = pd.DataFrame(
        [
            {
                "run": run,
                "label": labels[run],
                "family": families[run],
                "metric": metric,
                "group": group or "known",
                "n": int(table[run].count()),
                "mean_percent": table[run].mean(),
                "std_percent": table[run].std(ddof=1),
                "best": run in best[metric, group],
            }
            for run in tidy.in_family_order(runs)
            for (metric, group), table in values.items()
        ]
    )
    note = f"{SPREAD} in percent, score: {score_words(context.score)}, all test images. Bold: the best student."
    if BOTH in columns:
        note += " Medium + hard: the unknowns of both together, which later papers call hard."
    block = Block(
        header=["Run", METRIC_TITLES["accuracy"], *[group.capitalize() for group in columns] * 2],
        rows=body,
        spans=[("", 2), *((METRIC_TITLES[metric], len(columns)) for metric in ("auroc", "oscr"))],
        note=note,
    )
    return Content([block], data, counts=list(data["n"]))


def _of_group(runs: pd.DataFrame, metric: str, group: str, score: str) -> pd.DataFrame:
    """A metric in percent of one group of unknowns, or of medium and hard together.

    AUROC and OSCR are means over the unknowns of what the knowns decide, so those of a union are the means of its
    parts, weighted by their images.
    """
    if group != BOTH:
        return tidy.pair_values(runs, metric, score=score, group=group)
    parts = []
    for part in ("medium", "hard"):
        rows = tidy.metric_rows(runs, metric, score=score, group=part)
        count = rows.pivot_table(index=tidy.UNIT, columns="run", values="n_unknown", sort=False)
        parts.append((tidy.pair_values(runs, metric, score=score, group=part), count))
    return sum(value * count for value, count in parts) / sum(count for _, count in parts)

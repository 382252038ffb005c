"""Accuracy and open-set metrics of every run, with the published numbers for the same dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...datasets import catalog
from .. import tidy
from ..context import Context, score_words
from ..summary import summarized
from .common import METRIC_TITLES, SPREAD, Content, best_of, difference_cell, mean_cell, spans, split_title
from .formats import Block, Cell
from .published import benchmark_name, benchmark_title, published_block


def make(tables: Mapping[str, pd.DataFrame], context: Context, published: pd.DataFrame) -> Content:
    """A row a run; `tables` needs `runs`."""
    summary = summarized(tables["runs"], tidy.pick(context, tables["runs"]).baseline)
    runs = tidy.in_family_order(summary)
    labels, families = tidy.labels(summary), tidy.families(summary)
    columns = _columns(summary, context.score)
    rows = pd.concat(
        [
            tidy.metric_rows(summary, metric, score=context.score, group=group).assign(column=title)
            for title, (metric, group) in columns.items()
        ],
        ignore_index=True,
    )
    tidy.require_runs(
        "table 'benchmark'", list(rows["run"]), f"a run with accuracy or a metric of the {score_words(context.score)}"
    )
    by_place = rows.set_index(["run", "column"])
    # the teacher is a larger network: the best of the students is what the comparison is about
    students = [run for run in runs if families[run] != "teacher"]
    best = {
        title: best_of(by_place, [(run, title) for run in students], metric) for title, (metric, _) in columns.items()
    }
    body: list[Sequence[Cell] | str] = []
    differences = [title for title in ("Accuracy", "AUROC") if title in columns]
    for family, title in tidy.FAMILIES.items():
        members = [run for run in runs if families[run] == family]
        if members:
            body.append(title)
        for run in members:
            cells = [Cell(labels[run])]
            cells += [mean_cell(by_place, (run, column), best[column]) for column in columns]
            cells += [difference_cell(by_place, (run, column)) for column in differences]
            body.append(cells)
    baseline = str(rows["baseline"].iloc[0])
    header = [("", "Run"), *(split_title(title, metric) for title, (metric, _) in columns.items())]
    header += [("Difference in", title if title == "AUROC" else title.lower()) for title in differences]
    note = (
        f"{SPREAD} in percent, score: {score_words(context.score)}, all test images. "
        f"Differences in points to {labels.get(baseline, baseline)} over the same class sets, "
        f"{tidy.interval_words(rows['n'])}. Bold: the best student. OSCR is the same number as OpenAUC."
    )
    data = rows.assign(
        block="measured", best=[(r, c) in best[c] for r, c in zip(rows["run"], rows["column"], strict=True)]
    )
    for name in ("mean", "std", "difference", "difference_low", "difference_high"):
        data[f"{name}_percent"] = 100 * data[name]
    data["order"] = data["run"].map({run: position for position, run in enumerate(runs)})
    data = data.sort_values("order", kind="stable")
    names = ["block", "run", "label", "family", "group", "metric", "n", "mean_percent", "std_percent", "best"]
    names += ["baseline", "difference_percent", "difference_low_percent", "difference_high_percent"]
    literature, chosen = _literature(summary, published, context)
    return Content(
        blocks=[
            Block([name for _, name in header], body, spans=spans(title for title, _ in header), note=note),
            literature,
        ],
        data=pd.concat([data[names], chosen], ignore_index=True),
        counts=list(rows["n"]),
    )


def _columns(summary: pd.DataFrame, score: str) -> dict[str, tuple[str, str]]:
    """Title -> (metric, group): all unknowns together, then AUROC for each of several groups of unknowns."""
    columns = {title: (metric, "all") for metric, title in METRIC_TITLES.items() if metric != "openauc"}
    groups = [group for group in summary["group"].unique() if group not in ("all", "known", "unknown", "")]
    if len(groups) > 1:
        columns |= {f"AUROC {group}": ("auroc", group) for group in groups}
    return {
        title: place
        for title, place in columns.items()
        if not tidy.metric_rows(summary, place[0], score=score, group=place[1]).empty
    }


def _literature(summary: pd.DataFrame, published: pd.DataFrame, context: Context) -> tuple[Block, pd.DataFrame]:
    """Numbers from the literature for the same dataset, or for the same images in another form."""
    dataset = summary["dataset"].iloc[0]
    name = benchmark_name(summary["protocol"].iloc[0], dataset)
    rows = published[published["dataset"] == name]
    if rows.empty:
        heading = f"Published numbers: none are recorded for {context.dataset_title}."
        return Block((), (), heading=heading), pd.DataFrame()
    title = benchmark_title(name)
    heading = f"Published numbers for {title}"
    if name != dataset and name in catalog.datasets():  # others are named by their protocol
        heading += f" (here: {context.dataset_title})"
    return published_block(rows, {name: title}, heading)

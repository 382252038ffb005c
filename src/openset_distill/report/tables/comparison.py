"""Several experiments side by side: methods in rows, datasets in columns, and the published numbers below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...core.errors import DataError, nearest
from .. import tidy
from ..context import score_words
from ..summary import summarized
from .common import METRIC_TITLES, SPREAD, best_of, mean_cell, n_words
from .formats import Block, Cell, Table
from .published import benchmark_name, benchmark_title, published_block

METRICS = ("accuracy", "auroc", "oscr")
NOTE = (
    f"{SPREAD} in percent. Bold: the best student of a column. "
    "Experiments differ in scale, networks and length of training; their own tables say how."
)


def compare(experiments: Mapping[str, pd.DataFrame], published: pd.DataFrame, score: str = "maximum_logit") -> Table:
    """The table of several experiments: a block a metric, a row a run, a column an experiment.

    Runs of different experiments are one method where they have the same name. Ablations are left out.

    Args:
        experiments: what to call an experiment -> its tidy table `runs`.
        published: of `read_published`.
        score: by which the runs are compared.

    Raises:
        DataError: there is no experiment, or none has a run to show.
    """
    if not experiments:
        raise DataError("a comparison needs at least one experiment; give its tidy table runs.csv")
    for name, table in experiments.items():
        if score not in set(table["score"]):
            raise DataError(
                f"the experiment {name!r} has no score {score!r}; {nearest(score, set(table['score']) - {''})}"
            )
    summaries = {name: summarized(table, ()) for name, table in experiments.items()}
    rows = pd.concat(
        [
            tidy.metric_rows(summary, metric, score=score).assign(name=name)
            for name, summary in summaries.items()
            for metric in METRICS
        ],
        ignore_index=True,
    )
    rows = rows[rows["family"] != "ablation"]
    tidy.require_runs(
        "the comparison", list(rows["run"]), f"a run with accuracy or a metric of the {score_words(score)}"
    )
    labels, families = tidy.labels(rows[::-1]), tidy.families(rows[::-1])  # of the first experiment that has a run
    by_place = rows.set_index(["name", "run", "metric"])
    runs = tidy.in_family_order(rows)
    # the teacher is a larger network: the best of the students is what the comparison is about
    students = [run for run in runs if families[run] != "teacher"]

    winners: set[tuple] = set()
    blocks = []
    for metric in METRICS:
        body: list[Sequence[Cell] | str] = []
        best = {name: best_of(by_place, [(name, run, metric) for run in students], metric) for name in summaries}
        winners.update(*best.values())
        for family, title in tidy.FAMILIES.items():
            members = [run for run in runs if families[run] == family]
            if members:
                body.append(title)
            for run in members:
                cells = [mean_cell(by_place, (name, run, metric), best[name]) for name in summaries]
                body.append([Cell(labels[run]), *cells])
        note = NOTE if metric == METRICS[-1] else ""
        blocks.append(Block(["Run", *summaries], body, heading=METRIC_TITLES[metric], note=note))

    counts = {name: n_words(rows.loc[rows["name"] == name, "n"]) for name in summaries}
    protocols = [
        f"{name}: protocol {summary['protocol'].iloc[0]}, {counts[name]}" for name, summary in summaries.items()
    ]
    benchmarks = {}
    for summary in summaries.values():
        benchmark = benchmark_name(summary["protocol"].iloc[0], summary["dataset"].iloc[0])
        benchmarks[benchmark] = benchmark_title(benchmark)
    # in the order of the columns
    literature = pd.concat([published[published["dataset"] == benchmark] for benchmark in benchmarks])
    chosen = pd.DataFrame()
    if literature.empty:
        block = Block((), (), heading=f"Published numbers: none are recorded for {', '.join(benchmarks.values())}.")
    else:
        block, chosen = published_block(
            literature, benchmarks, "Published numbers, with networks and training of their own"
        )

    data = rows.assign(
        block="measured",
        experiment=rows["name"],
        mean_percent=100 * rows["mean"],
        std_percent=100 * rows["std"],
        best=[key in winners for key in zip(rows["name"], rows["run"], rows["metric"], strict=True)],
    )
    columns = ["block", "experiment", "dataset", "protocol", "run", "label", "family", "metric", "n"]
    return Table(
        name="comparison",
        caption=f"Methods across datasets, score: {score_words(score)}, all test images. {'; '.join(protocols)}.",
        blocks=[*blocks, block],
        data=pd.concat([data[[*columns, "mean_percent", "std_percent", "best"]], chosen], ignore_index=True),
    )

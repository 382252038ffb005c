"""Each network without and with asymmetric distillation."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from .. import tidy
from ..context import Context, score_words
from .common import DASH, METRIC_TITLES, SPREAD, Content, interval, spread
from .formats import Block, Cell

METRICS = ("accuracy", "auroc", "oscr")


def make(tables: Mapping[str, pd.DataFrame], context: Context) -> Content:
    """A row for each network and run with asymmetric distillation; `tables` needs `runs` and `networks`.

    Without asymmetric distillation a network is the baseline, else its first run with plain cross entropy, else a
    teacher.
    """
    runs, networks = tables["runs"], tables["networks"]
    labels, families = tidy.labels(runs), tidy.families(runs)
    of_run = dict(zip(networks["run"], networks["network"], strict=True))
    parameters = dict(zip(networks["network"], networks["parameters"], strict=True))
    picked = tidy.pick(context, runs)
    pairs = []
    for network in sorted(parameters, key=parameters.__getitem__, reverse=True):
        members = [run for run in labels if of_run.get(run) == network]
        plain = [run for run in picked.baseline if run in members]
        plain += [run for family in ("cross_entropy", "teacher") for run in members if families[run] == family]
        distilled = [run for run in members if families[run] == "asymmetric"]
        if plain or distilled:
            pairs += [(network, plain[0] if plain else "", run) for run in distilled or [""]]
    both = [distilled for _, plain, distilled in pairs if plain and distilled]
    tidy.require_runs("table 'architectures'", both, "a network without and with asymmetric distillation")

    values = {
        metric: tidy.pair_values(runs, metric, score=context.score).reindex(columns=list(labels)) for metric in METRICS
    }
    body, rows, counts = [], [], []
    for network, plain, distilled in pairs:
        cells = [Cell(network), Cell(labels.get(plain, DASH)), Cell(labels.get(distilled, DASH))]
        cells.append(Cell(_count(parameters[network])))
        for metric, table in values.items():
            row = {"network": network, "parameters": int(parameters[network]), "metric": metric}
            for name, run in (("without", plain), ("with", distilled)):
                column = tidy.of_class_sets(table[run]) if run else pd.Series(dtype=float)
                cells.append(Cell(spread(column.mean(), column.std(ddof=1))))
                row |= {name: run, f"{name}_percent": column.mean(), f"{name}_std_percent": column.std(ddof=1)}
                counts += [int(column.count())] if run else []
            found = tidy.paired(table, distilled, plain) if plain and distilled else None
            cells.append(Cell(interval(found.difference, found.low, found.high) if found else DASH))
            if found:
                row |= {"difference_percent": found.difference, "low_percent": found.low, "high_percent": found.high}
                row["pairs"] = found.n
            rows.append(row)
        body.append(cells)
    data = pd.DataFrame(rows)
    note = (
        f"{SPREAD} in percent, score: {score_words(context.score)}, all test images. Parameters: "
        "trained numbers, head included. Differences in points over the same class sets, "
        f"{tidy.interval_words(data['pairs'].dropna())}."
    )
    block = Block(
        header=["Network", "Without AD", "With AD", "Parameters", *["Without", "With", "Difference"] * len(METRICS)],
        rows=body,
        text_columns=3,
        spans=[("", 4), *((METRIC_TITLES[metric], 3) for metric in METRICS)],
        note=note,
    )
    return Content([block], data, counts)


def _count(parameters: float) -> str:
    """
    >>> _count(11_173_962), _count(20_500)
    ('11.2 M', '20 k')
    """
    return f"{parameters / 1e6:.1f} M" if parameters >= 1e6 else f"{parameters / 1e3:.0f} k"

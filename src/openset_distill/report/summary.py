"""What several class sets say together: each metric of each run over class sets, and its difference to the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy

from ..evaluation.statistics import Unit, class_set_means, mean_std, paired_difference

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = lazy.load("pandas")

METRIC_KEYS = ("score", "group", "sampling", "metric")
ABOUT = ("experiment", "dataset", "protocol")
UNIT = ("class_set", "split", "seed")


def summarize(rows: Iterable[Mapping[str, Any]], baseline: str) -> list[dict[str, Any]]:
    """summary.csv: a row for each metric of each run.

    Splits with the same classes and seeds are replicates: they are averaged, and `n` is the number of class sets.

    Args:
        rows: of runs.csv, each with its class set.
        baseline: the run that the others are compared with; it has no difference, nor has any run where it is absent.
    """
    values: dict[tuple[str, ...], dict[Unit, float]] = {}
    about: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["run"], *(row[name] for name in METRIC_KEYS))
        values.setdefault(key, {})[tuple(row[name] for name in UNIT)] = row["value"]
        about.setdefault(key, {name: row[name] for name in (*ABOUT, "run", "label", "family")})
    summary = []
    for key, of_unit in values.items():
        run, *metric = key
        spread = mean_std(class_set_means(of_unit).values())
        paired = paired_difference(of_unit if run != baseline else {}, values.get((baseline, *metric), {}))
        summary.append(
            {
                **about[key],
                **dict(zip(METRIC_KEYS, metric, strict=True)),
                "n": spread.n,
                "mean": spread.mean,
                "std": spread.std,
                "baseline": baseline,
                "difference": paired.difference,
                "difference_low": paired.low,
                "difference_high": paired.high,
                "effect_size": paired.effect_size,
                "p_value": paired.p_value,
            }
        )
    return summary


def summarized(runs: pd.DataFrame, baseline: Sequence[str]) -> pd.DataFrame:
    """`summarize` of the tidy table `runs`; `baseline` holds one run or none."""
    return pd.DataFrame(summarize(runs.to_dict("records"), "".join(baseline[:1])))

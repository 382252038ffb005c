"""From a number in a figure or table back to the runs, settings and commits that it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import DataError, OpenSetError, nearest
from ..core.files import read_json
from ..evaluation.statistics import Spread, class_set_means, mean_std
from .tidy import UNIT, read_tidy


@dataclass(frozen=True)
class Origin:
    """One trained network behind a number."""

    folder: str  # of the run, from the experiment's own
    value: float
    settings: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """A number, and what it is the mean of."""

    label: str
    number: Spread
    origins: tuple[Origin, ...]


def trace(shown: Path, run: str, metric: str, score: str) -> Trace:
    """What the number of `run` and `metric` comes from.

    Args:
        shown: a figure or table of the experiment, `results/digits/figures/two_sides.png`, also one under docs/results.
        run: name or label of the run.
        score: for metrics of a score; accuracy has none.

    Raises:
        OpenSetError: nothing is there, or no run or metric has this name.
    """
    experiment = shown.parent.parent
    path = experiment / "tidy" / "runs.csv"
    if not shown.exists() or not path.is_file():
        what = shown if not shown.exists() else path
        raise DataError(f"{what} does not exist; give a figure or table of a finished experiment")
    rows = read_tidy("runs", path).to_dict("records")  # which tells splits of the same classes
    names = {row["label"]: row["run"] for row in rows} | {row["run"]: row["run"] for row in rows}
    if run not in names:
        raise OpenSetError(f"{path} has no run {run!r}; {nearest(run, names)}")
    own = [row for row in rows if row["run"] == names[run] and row["sampling"] == "full"]
    found = [row for row in own if row["metric"] == metric and (metric == "accuracy" or _is_of(row, score))]
    if not found:
        known = {row["metric"] for row in own} if metric not in {row["metric"] for row in own} else None
        words = f"metric {metric!r}; {nearest(metric, known)}" if known else f"{metric} of {score!r}"
        raise OpenSetError(f"{path} has no {words}")
    units = {tuple(row[name] for name in UNIT): row["value"] for row in found}
    return Trace(found[0]["label"], mean_std(class_set_means(units).values()), tuple(_origins(experiment, found)))


def _is_of(row: dict[str, Any], score: str) -> bool:
    return row["score"] == score and row["group"] == "all"


def _origins(experiment: Path, rows: list[dict[str, Any]]) -> Iterator[Origin]:
    kept = experiment / "provenance.json"  # results that are kept without networks have one for all
    records = read_json(kept) if kept.is_file() else {}
    for row in rows:
        folder = f"split{row['split']:g}/seed{row['seed']:g}/{row['run']}"
        own = experiment / folder
        if folder in records:
            settings, provenance = records[folder]["settings"], records[folder]["provenance"]
        else:
            settings, provenance = read_json(own / "config.json"), read_json(own / "provenance.json")
        yield Origin(folder, row["value"], settings, provenance)

"""What tables share: titles, the best of a column, and numbers as text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

from .. import tidy
from ..context import counted
from .formats import Block, Cell

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = lazy.load("pandas")

METRIC_TITLES = {
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "aupr_known": "AUPR known",
    "aupr_unknown": "AUPR unknown",
    "fpr95": "FPR95",
    "oscr": "OSCR",
    "openauc": "OpenAUC",
}
LOWER_IS_BETTER = frozenset({"fpr95"})
DASH = "\N{EN DASH}"
SPREAD = "Mean \N{PLUS-MINUS SIGN} standard deviation over class sets"


@dataclass(frozen=True)
class Content:
    """What a table shows: its grids, its numbers, and how many values are behind each mean."""

    blocks: Sequence[Block]
    data: pd.DataFrame
    counts: Sequence[float]


def with_arrow(title: str, metric: str) -> str:
    """A title, with an arrow down where less of the metric is better."""
    return f"{title} \N{DOWNWARDS ARROW}" if metric in LOWER_IS_BETTER else title


def split_title(title: str, metric: str) -> tuple[str, str]:
    """What stands above and in the header of a column: related columns share the line above."""
    above, _, name = title.partition(" ")
    return (above, name) if name else ("", with_arrow(title, metric))


def spans(titles: Iterable[str]) -> list[tuple[str, int]]:
    """Neighbours of one title as (title, number of columns); columns without a title stay single."""
    found: list[tuple[str, int]] = []
    for title in titles:
        if title and found and found[-1][0] == title:
            found[-1] = (title, found[-1][1] + 1)
        else:
            found.append((title, 1))
    return found


def best_of(by_place: pd.DataFrame, keys: Sequence[tuple], metric: str) -> set[tuple]:
    """The keys whose mean is the best of a column; all of those that print the same number."""
    means = {key: printed(100 * by_place.loc[key, "mean"]) for key in keys if key in by_place.index}
    means = {key: mean for key, mean in means.items() if np.isfinite(mean)}
    if len(means) < 2:
        return set()
    top = (min if metric in LOWER_IS_BETTER else max)(means.values())
    return {key for key, mean in means.items() if mean == top}


def top_of(means: pd.Series) -> set[str]:
    """The runs whose mean is the largest; all of those that print the same number."""
    rounded = means.map(printed)
    return set(rounded.index[rounded == rounded.max()])


def printed(value: float) -> float:
    """The number that a table prints for a value: what prints alike is equally good."""
    return float(tidy.decimal(value))


def mean_cell(by_place: pd.DataFrame, key: tuple, best: set[tuple]) -> Cell:
    """Mean and standard deviation of one run in percent, or a dash where it was not evaluated."""
    if key not in by_place.index:
        return Cell(DASH)
    row = by_place.loc[key]
    return Cell(spread(100 * row["mean"], 100 * row["std"]), key in best)


def difference_cell(by_place: pd.DataFrame, key: tuple) -> Cell:
    """The difference to the baseline with its interval in percentage points, or a dash."""
    if key not in by_place.index:
        return Cell(DASH)
    row = by_place.loc[key]
    return Cell(interval(*(100 * row[name] for name in ("difference", "difference_low", "difference_high"))))


def spread(mean: float, std: float) -> str:
    """Mean and standard deviation, `71.2 +- 0.4` with the sign; the mean alone where there is one class set."""
    if not np.isfinite(mean):
        return DASH
    return (
        unbroken(f"{tidy.decimal(mean)} \N{PLUS-MINUS SIGN} {tidy.decimal(std)}")
        if np.isfinite(std)
        else tidy.decimal(mean)
    )


def interval(difference: float, low: float, high: float, bound: Callable[[float], str] = tidy.signed) -> str:
    """`+1.2 [+0.3, +2.1]`: a difference and its confidence interval in percentage points; `bound` writes its ends."""
    if not np.isfinite(difference):
        return DASH
    text = tidy.signed(difference)
    return unbroken(f"{text} [{bound(low)}, {bound(high)}]") if np.isfinite(low) else text


def unbroken(text: str) -> str:
    """`text` that a renderer keeps on one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def n_words(counts: Sequence[float]) -> str:
    """How many class sets are behind a mean, as a range where the rows differ."""
    low, high = int(min(counts)), int(max(counts))
    return f"n = {counted(high, 'class set')}" if low == high else f"n = {low} to {high} class sets"


def effect(size: float) -> str:
    """Cohen's d_z with its sign and two decimals."""
    return f"{size:+.2f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(size) else DASH


def probability(p_value: float) -> str:
    """A p-value with three decimals."""
    if not np.isfinite(p_value):
        return DASH
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def comparison_words(counts: Sequence[int]) -> str:
    """What a note says of intervals, effect sizes and p-values, given the number of class sets behind each."""
    return (
        f"Differences over the same class sets, {tidy.interval_words(counts)}. d_z: mean difference over the standard "
        "deviation of the differences. p: two-sided paired t test; both need at least 2 class sets."
    )

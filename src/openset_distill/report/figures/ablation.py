"""What each switch of asymmetric distillation is worth, compared with the first row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .. import tidy
from ..context import Context, score_words
from . import style

METRICS = {"auroc": "AUROC of the {score}", "accuracy": "Closed-set accuracy"}


@style.styled
def draw(tables: Mapping[str, pd.DataFrame], context: Context) -> tuple[Figure, pd.DataFrame]:
    """A row for each run, a panel for each metric; `tables` needs `runs`."""
    runs = tables["runs"]
    picked = tidy.pick(context, runs)
    rows = list(picked.ablation)
    tidy.require_runs("figure 'ablation'", rows[1:], "two runs of the ablation")
    labels, families = tidy.labels(runs), tidy.families(runs)
    data = _differences(runs, rows, labels, context.score)

    figure = style.new_figure(style.DOUBLE_COLUMN, 0.72 + 0.27 * len(rows))
    panels = figure.subplots(1, len(METRICS), sharey=True)
    height = np.arange(len(rows))[::-1]
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        part = data[data["metric"] == metric].set_index("run").loc[rows]
        axes.axvline(0, color="#8a8a8a", linewidth=0.9, zorder=1)
        for y, run in zip(height, rows, strict=True):
            _row(axes, y, part.loc[run], style.looks([run], families)[run], first=run == rows[0])
        axes.set_title(title.format(score=score_words(context.score)))
        axes.set_xlabel("Difference to the first row (points)")
        axes.set_yticks(height, [labels[run] for run in rows])
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        for y in height[::2]:
            axes.axhspan(y - 0.5, y + 0.5, color="#f6f6f6", linewidth=0, zorder=0)
    note = f"Differences over the same class sets, {tidy.interval_words(data['pairs'])}."
    if data["low_percent"].notna().any():
        note += " Open marker: the interval contains 0."
    style.finish(figure, "ablation", context, f"{note} {picked.note('ablation')}")
    return figure, data


def _differences(runs: pd.DataFrame, rows: list[str], labels: dict[str, str], score: str) -> pd.DataFrame:
    parts = []
    for metric in METRICS:
        values = tidy.pair_values(runs, metric, score=score).reindex(columns=rows)
        part = tidy.paired_differences(values, rows[0], rows)
        part = part.rename(columns={name: f"{name}_percent" for name in ("difference", "low", "high")})
        part.insert(0, "metric", metric)
        part.insert(1, "run", part.index)
        part.insert(2, "label", [labels[run] for run in rows])
        part.insert(3, "mean_percent", tidy.of_class_sets(values).mean().loc[rows])
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _row(axes, y: float, row: pd.Series, look: style.Look, first: bool) -> None:
    difference, low, high = row["difference_percent"], row["low_percent"], row["high_percent"]
    if first:
        difference = 0.0
        text = f"reference: {tidy.decimal(row['mean_percent'])} %"
    elif np.isfinite(difference):
        text = tidy.signed(difference)
        text += f" [{tidy.signed(low)}, {tidy.signed(high)}]" if np.isfinite(low) else ""
    else:
        text = "no common pair"
    axes.text(1.03, y, text, transform=axes.get_yaxis_transform(), va="center", size=style.SMALL)
    if not np.isfinite(difference):
        return
    if np.isfinite(low):
        axes.plot([low, high], [y, y], color=look.color, linewidth=1.5, solid_capstyle="butt", zorder=2)
        for end in (low, high):
            axes.plot([end, end], [y - 0.12, y + 0.12], color=look.color, linewidth=1.0, zorder=2)
    undecided = np.isfinite(low) and low <= 0 <= high
    axes.plot(
        difference,
        y,
        marker=look.marker,
        markersize=look.size * 1.35,
        markerfacecolor="white" if undecided else look.color,
        markeredgecolor=look.color if undecided else "white",
        markeredgewidth=1.0 if undecided else 0.5,
        zorder=3,
    )

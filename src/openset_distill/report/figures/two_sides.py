"""Closed-set accuracy against AUROC: which augmentations buy the one with the other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import tidy
from ..context import Context, score_words
from . import style

FAMILY_NAMES = {
    "teacher": "Teacher",
    "cross_entropy": "Cross entropy",
    "baseline": "Other methods",
    "ssa": "SSA",
    "msa": "MSA",
    "distillation": "Distillation",
    "ablation": "AD, ablation",
    "asymmetric": "AD",
}


@style.styled
def draw(tables: Mapping[str, pd.DataFrame], context: Context) -> tuple[Figure, pd.DataFrame]:
    """One point a run; `tables` needs `runs`."""
    runs = tables["runs"]
    accuracy, auroc = (tidy.pair_values(runs, metric, score=context.score) for metric in ("accuracy", "auroc"))
    runs = runs[runs["run"].isin(accuracy.columns.intersection(auroc.columns))]
    picked = tidy.pick(context, runs)
    accuracy, auroc = (tidy.mean_and_error(values, *picked.baseline) for values in (accuracy, auroc))
    data = _points(runs, accuracy, auroc)
    words = score_words(context.score)
    tidy.require_runs("figure 'two_sides'", list(data["run"]), f"a run with accuracy and AUROC of the {words}")

    figure = style.new_figure(style.DOUBLE_COLUMN, 3.8)
    axes = figure.subplots()
    where = {row.run: (row.accuracy_percent, row.auroc_percent) for row in data.itertuples()}
    look = {row.run: style.looks([row.run], {row.run: row.family})[row.run] for row in data.itertuples()}
    for row in data.itertuples():
        axes.errorbar(
            row.accuracy_percent,
            row.auroc_percent,
            xerr=row.accuracy_error_percent,
            yerr=row.auroc_error_percent,
            fmt="none",
            ecolor=look[row.run].color,
            elinewidth=0.8,
            alpha=0.55,
            zorder=3,
        )
        axes.plot(
            *where[row.run],
            marker=look[row.run].marker,
            color=look[row.run].color,
            markersize=look[row.run].size * 1.45,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linestyle="none",
            zorder=5,
        )
    axes.margins(x=0.13, y=0.13)
    axes.set_xlabel("Closed-set accuracy (%)")
    axes.set_ylabel(f"AUROC of the {words} (%)")
    of_what = (
        f"difference to {tidy.labels(data)[picked.baseline[0]]} on the same class sets" if picked.baseline else "mean"
    )
    bars = data[["accuracy_error_percent", "auroc_error_percent"]].notna().any(axis=None)
    notes = [f"Bars: standard error of the {of_what}." if bars else "One class set: no error bars."]
    for run in picked.baseline:
        axes.axvline(where[run][0], color="#8a8a8a", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.axhline(where[run][1], color="#8a8a8a", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        notes.append(f"Dashed lines: {tidy.labels(data)[run]}.")
    arrows = [(where[start], where[end]) for start in picked.msa for end in picked.asymmetric]
    if arrows:
        notes.append(f"Arrows: {tidy.labels(data)[picked.msa[0]]} to asymmetric distillation (AD).")
    notes.append(picked.note(*tidy.STORY))

    present = [family for family in tidy.FAMILIES if family in set(data["family"])]
    handles = [_handle(family) for family in present]
    style.finish(
        figure,
        "two_sides",
        context,
        note=" ".join(filter(None, notes)),
        legend=(handles, [FAMILY_NAMES[family] for family in present]),
    )
    bends = [0.14 * (-1) ** i for i in range(len(arrows))]
    for (start, end), bend in zip(arrows, bends, strict=True):
        axes.annotate(
            "",
            xy=end,
            xytext=start,
            arrowprops={
                "arrowstyle": "-|>,head_width=0.22,head_length=0.45",
                "connectionstyle": f"arc3,rad={bend}",
                "color": style.VERMILION,
                "linewidth": 1.0,
                "alpha": 0.75,
                "shrinkA": 6,
                "shrinkB": 6,
            },
            zorder=4,
        )
    order = list(data["run"])
    style.place_labels(
        axes,
        [where[run] for run in order],
        list(data["label"]),
        colors=[style.INK] * len(order),
        lines=[part for (start, end), bend in zip(arrows, bends, strict=True) for part in _bow(axes, start, end, bend)],
        light_lines=[*_bars(data), *_cross(axes, [where[run] for run in picked.baseline])],
    )
    return figure, data


def _points(runs: pd.DataFrame, accuracy: pd.DataFrame, auroc: pd.DataFrame) -> pd.DataFrame:
    """run, label, family, mean and standard error of accuracy and AUROC in percent, n; in family order."""
    labels, families = tidy.labels(runs), tidy.families(runs)
    rows = [
        {
            "run": run,
            "label": labels[run],
            "family": families[run],
            "accuracy_percent": accuracy.loc[run, "mean"],
            "accuracy_error_percent": accuracy.loc[run, "standard_error"],
            "auroc_percent": auroc.loc[run, "mean"],
            "auroc_error_percent": auroc.loc[run, "standard_error"],
            "n": int(min(accuracy.loc[run, "n"], auroc.loc[run, "n"])),
        }
        for run in tidy.in_family_order(runs)
    ]
    columns = ["run", "label", "family", "accuracy_percent", "accuracy_error_percent"]
    return pd.DataFrame(rows, columns=[*columns, "auroc_percent", "auroc_error_percent", "n"])


def _handle(family: str) -> Line2D:
    color, marker = style.FAMILY_LOOK[family]
    size = 5.2 * style.MARKER_SCALE.get(marker, 1.0)
    return Line2D([], [], color=color, marker=marker, linestyle="none", markersize=size, markeredgecolor="white")


def _bow(axes, start: tuple[float, float], end: tuple[float, float], bend: float) -> list:
    """The curve that matplotlib's `arc3` draws (a quadratic Bezier curve), as short segments in data coordinates."""
    a, b = axes.transData.transform([start, end])
    control = (a + b) / 2 + bend * np.array([b[1] - a[1], a[0] - b[0]])
    t = np.linspace(0, 1, 13)[:, None]
    curve = axes.transData.inverted().transform((1 - t) ** 2 * a + 2 * t * (1 - t) * control + t**2 * b)
    points = [tuple(point) for point in curve]
    return list(itertools.pairwise(points))


def _bars(data: pd.DataFrame) -> list:
    segments = []
    for row in data.fillna(0.0).itertuples():
        x, y = row.accuracy_percent, row.auroc_percent
        dx, dy = row.accuracy_error_percent, row.auroc_error_percent
        segments += [((x - dx, y), (x + dx, y)), ((x, y - dy), (x, y + dy))]
    return segments


def _cross(axes, points: list[tuple[float, float]]) -> list:
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    return [segment for x, y in points for segment in (((x, y0), (x, y1)), ((x0, y), (x1, y)))]

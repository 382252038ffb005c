"""Geometry of test features: magnitude, clusters, collapse, rank, likeness to the teacher, for every run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from .. import tidy
from ..context import Context
from . import style

# quantity: title of its panel, groups drawn
PANELS = {
    "feature_norm_mean": ("Feature norm", ("known", "unknown")),
    "maximum_logit_mean": ("Maximum logit", ("known", "unknown")),
    "effective_rank": ("Effective rank", ("known", "unknown")),
    "silhouette": ("Silhouette", ("known",)),
    "nc1": ("NC1", ("known",)),
    "cka_teacher": ("CKA with the teacher", ("known",)),
}
RATIOS = ("nc1",)  # on a logarithmic scale where they differ much
COLUMNS = 3
LABEL_ROOM = 118.0  # points


@style.styled
def draw(tables: Mapping[str, pd.DataFrame], context: Context) -> tuple[Figure, pd.DataFrame]:
    """A row for each run, a panel for each measure; `tables` needs `features`."""
    table = tables["features"].dropna(subset=["value"])
    shown = [quantity for quantity in PANELS if quantity in set(table["quantity"])]
    tidy.require_runs("figure 'feature_geometry'", shown, "a measure of features")
    runs = tidy.in_family_order(tables["features"])
    labels, families = tidy.labels(tables["features"]), tidy.families(tables["features"])
    names = [style.wrapped(labels[run], LABEL_ROOM) for run in runs]
    lines = np.array([1 + name.count("\n") for name in names])
    # runs from top to bottom, each as high as its label
    height = -(np.cumsum(lines) - lines / 2)

    rows = -(-len(shown) // COLUMNS)
    figure = style.new_figure(style.DOUBLE_COLUMN, rows * (0.42 + 0.16 * lines.sum()))
    grid = figure.subplots(rows, min(COLUMNS, len(shown)), squeeze=False, sharey=True)
    drawn = []
    for axes, quantity in zip(grid.flat, shown, strict=False):
        title, groups = PANELS[quantity]
        for place, run in zip(height, runs, strict=True):
            for group in groups:
                chosen = (table["run"] == run) & (table["quantity"] == quantity) & (table["group"] == group)
                values = table[chosen].groupby(tidy.CLASS_SET, sort=False)["value"].mean()
                if len(values):
                    look = style.looks([run], families)[run]
                    _point(axes, place, values, look, known=group == "known")
                    drawn.append(
                        {
                            "quantity": quantity,
                            "run": run,
                            "label": labels[run],
                            "group": group,
                            "mean": values.mean(),
                            "std": values.std(),
                            "n": len(values),
                        }
                    )
        axes.set_title(title)
        axes.set_yticks(height, names)
        axes.set_ylim(-lines.sum(), 0)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        means = [row["mean"] for row in drawn if row["quantity"] == quantity]
        if quantity in RATIOS and max(means) > 10 * min(means):
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    data = pd.DataFrame(drawn)
    marks = {"color": style.INK, "linestyle": "none", "marker": "o", "markersize": 4.5}
    handles = [Line2D([], [], **marks), Line2D([], [], **marks, markerfacecolor="white")]
    bars = "Bars: one standard deviation over class sets." if data["n"].max() > 1 else "One class set: no bars."
    note = f"NC1: spread within classes relative to that between them. CKA is debiased. {bars}"
    note = f"{note} {tidy.pick(context, tables['features']).note(*tidy.STORY)}"
    style.finish(figure, "feature_geometry", context, note, legend=(handles, ["known", "unknown"]))
    return figure, data


def _point(axes, place: float, values: pd.Series, look: style.Look, known: bool) -> None:
    """Mean and standard deviation; filled for known images, open for unknown ones."""
    if len(values) > 1:
        low, high = values.mean() - values.std(), values.mean() + values.std()
        axes.plot([low, high], [place, place], color=look.color, linewidth=1.1, alpha=0.6, zorder=2)
    axes.plot(
        values.mean(),
        place,
        marker=look.marker,
        markersize=look.size * 1.2,
        markerfacecolor=look.color if known else "white",
        markeredgecolor="white" if known else look.color,
        markeredgewidth=0.5 if known else 1.0,
        zorder=3 if known else 4,
    )

"""ROC and OSCR curves of the score that runs are compared by, mean over class sets."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import tidy
from ..context import Context, score_words
from . import style

CURVES = {
    "roc": ("ROC", "True positive rate of knowns (%)"),
    "oscr": ("OSCR", "Correct classification rate (%)"),
}


@style.styled
def draw(tables: Mapping[str, pd.DataFrame], context: Context) -> tuple[Figure, pd.DataFrame]:
    """A panel for each kind of curve; `tables` needs `curves`."""
    table = tables["curves"]
    picked = tidy.pick(context, table)
    runs = picked.main(distillation=True, limit=6) or tidy.in_family_order(table)[:6]
    labels = tidy.labels(table)
    look = style.looks(runs, tidy.families(table))
    percent = table.assign(x=100 * table["x"], y=100 * table["y"])

    figure = style.new_figure(style.DOUBLE_COLUMN, 3.5)
    drawn = []
    for axes, (curve, (title, y_label)) in zip(figure.subplots(1, 2), CURVES.items(), strict=True):
        for run in runs:
            part = percent[(percent["run"] == run) & (percent["curve"] == curve)]
            if part.empty:
                continue
            line = style.mean_line(axes, part, "x", "y", look[run], labels[run], marks=8, limits=(0, 100))
            drawn.append(line.assign(curve=curve, run=run, label=labels[run]))
        if curve == "roc":
            axes.plot([0, 100], [0, 100], color="#b0b0b0", linewidth=0.8, zorder=1)
        axes.set(title=title, xlabel="False positive rate of unknowns (%)", ylabel=y_label)
        axes.set(xlim=(0, 100), ylim=(0, 100), box_aspect=1)
    tidy.require_runs("figure 'openset_curves'", drawn, "an ROC or OSCR curve")
    data = pd.concat(drawn, ignore_index=True)
    bars = style.BARS if data["n"].max() > 1 else style.NO_BARS
    handles = [Line2D([], [], **look[run].line()) for run in runs]
    style.finish(
        figure,
        "openset_curves",
        context,
        f"Score: {score_words(context.score)}. {bars} {picked.note(*tidy.STORY, 'distillation')}",
        legend=(handles, [labels[run] for run in runs]),
    )
    columns = ["curve", "run", "label", "x", "mean", "std", "n"]
    renamed = {"x": "x_percent", "mean": "y_percent", "std": "y_std_percent"}
    return figure, data[columns].rename(columns=renamed)

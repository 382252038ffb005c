"""Training loss, validation accuracy and share of hard samples against the epoch."""

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

# quantity: title of its panel, factor to the unit drawn, name in the data file
QUANTITIES = {
    "train_loss": ("Training loss", 1.0, "train_loss"),
    "validation_accuracy": ("Validation accuracy (%)", 100.0, "validation_accuracy_percent"),
    "hard_share": ("Hard mixed samples (%)", 100.0, "hard_share_percent"),
}


@style.styled
def draw(tables: Mapping[str, pd.DataFrame], context: Context) -> tuple[Figure, pd.DataFrame]:
    """A panel for each quantity that some run has; `tables` needs `history`."""
    table = tables["history"]
    picked = tidy.pick(context, table)
    runs = list(picked.dynamics) or picked.main(distillation=True, limit=6) or tidy.in_family_order(table)[:6]
    labels = tidy.labels(table)
    look = style.looks(runs, tidy.families(table))
    shown = table[table["run"].isin(runs)]
    quantities = [quantity for quantity in QUANTITIES if shown[quantity].notna().any()]
    tidy.require_runs("figure 'training_dynamics'", quantities, "a training loss or validation accuracy")

    figure = style.new_figure(style.DOUBLE_COLUMN, 2.2)
    drawn = []
    for axes, quantity in zip(figure.subplots(1, len(quantities), squeeze=False)[0], quantities, strict=True):
        title, factor, name = QUANTITIES[quantity]
        for run in runs:
            part = shown[(shown["run"] == run) & shown[quantity].notna()]
            if part.empty:
                continue
            scaled = part.assign(**{quantity: factor * part[quantity]})
            limits = (0, 100) if factor == 100 else (scaled[quantity].min(), np.inf)  # a loss may be drawn as logarithm
            line = style.mean_line(axes, scaled, "epoch", quantity, look[run], labels[run], 6, limits)
            drawn.append(line.assign(quantity=name, run=run, label=labels[run]))
        axes.set(title=title, xlabel="Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if quantity == "train_loss" and (shown[quantity].dropna() > 0).all():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            # plain numbers: the exponent of a power of ten would be smaller than the smallest type allowed
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
    data = pd.concat(drawn, ignore_index=True)
    bars = style.BARS if data["n"].max() > 1 else style.NO_BARS
    note = f"The losses of different methods have different terms. {bars}"
    if "hard_share" in quantities:
        note += " Hard: the teacher's top class is neither source of the mixed image; the teacher does not change."
    handles = [Line2D([], [], **look[run].line()) for run in runs]
    style.finish(
        figure,
        "training_dynamics",
        context,
        f"{note} {picked.note(*(('dynamics',) if picked.dynamics else (*tidy.STORY, 'distillation')))}",
        legend=(handles, [labels[run] for run in runs]),
    )
    columns = ["quantity", "run", "label", "x", "mean", "std", "n"]
    return figure, data[columns].rename(columns={"x": "epoch"})

"""t-SNE of test features: where unknowns land among the known classes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import tidy
from ..context import Context
from . import style

COLORS = (style.BLUE, style.ORANGE, style.GREEN, style.VERMILION, style.SKY, style.PURPLE)
MARKERS = ("o", "s", "^", "D", "v", "p", "<")  # seven markers and six colours: 42 classes before a pair comes again
UNKNOWN = "#b4b4b4"
LEAST_UNKNOWNS = 100  # of each run
NAMED_CLASSES = 12
LEGEND_CLASSES = 24


@style.styled
def draw(tables: Mapping[str, pd.DataFrame], context: Context) -> tuple[Figure, pd.DataFrame]:
    """A panel for each run, of the first split and seed; `tables` needs `embedding`."""
    table = tables["embedding"]
    picked = tidy.pick(context, table)
    runs = picked.main(limit=5)
    tidy.require_runs("figure 'feature_space'", runs, "a run of cross entropy, MSA or asymmetric distillation")
    split, seed = sorted(set(zip(table["split"], table["seed"], strict=True)))[0]
    first = (table["split"] == split) & (table["seed"] == seed) & table["run"].isin(runs)
    columns = ["run", "label", "split", "seed", "x", "y", "class", "known"]
    data = table.loc[first, [name for name in columns if name in table]].reset_index(drop=True)
    known = tidy.known_images(data)
    classes = sorted(set(data.loc[known, "class"]), key=_by_number)
    labels = tidy.labels(table)

    width = style.DOUBLE_COLUMN
    figure = style.new_figure(width, width / max(len(runs), 2.6) + 0.2)
    # as many unknowns as knowns say where unknowns land, and leave the knowns to be seen
    most = max(LEAST_UNKNOWNS, int(known.sum() / len(runs)))
    unknowns = data[~known].groupby("run", sort=False).head(most)
    data = pd.concat([data[known], unknowns]).sort_index().reset_index(drop=True)
    known = tidy.known_images(data)
    colors = {name: _look(position)["color"] for position, name in enumerate(classes)}
    markers = {name: _look(position)["marker"] for position, name in enumerate(classes)}
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for axes, run in zip(panels, runs, strict=True):
        part, unknown = data[(data["run"] == run) & known], data[(data["run"] == run) & ~known]
        size = 11 * min(1.0, max(0.3, (400 / len(part)) ** 0.5))  # square points, smaller in a crowd
        axes.scatter(
            unknown["x"], unknown["y"], marker="x", color=UNKNOWN, s=0.7 * size, linewidths=0.6, alpha=0.8, zorder=1
        )
        sns.scatterplot(
            part, x="x", y="y", hue="class", style="class", hue_order=classes, style_order=classes, palette=colors,
            markers=markers, s=size, alpha=0.85, linewidth=0, zorder=2, legend=False, ax=axes,
        )  # fmt: skip
        axes.set_title(style.wrapped(labels[run], width * 72 / len(runs) - 16, 8, "bold"))
        axes.set(xticks=[], yticks=[], xlabel="", ylabel="")
        axes.grid(False)
        # one square, the same scale in both directions: the layout would widen the limits of `adjustable="datalim"`
        points = data.loc[data["run"] == run, ["x", "y"]]
        centre, half = (points.max() + points.min()) / 2, 0.53 * (points.max() - points.min()).max()
        axes.set(xlim=(centre["x"] - half, centre["x"] + half), ylim=(centre["y"] - half, centre["y"] + half))
        axes.set_box_aspect(1)
        for side in axes.spines.values():
            side.set_visible(True)
    by_name = len(classes) <= NAMED_CLASSES and all(len(name) <= 12 for name in classes)
    handles, names = _legend(classes, by_name)
    note = (
        f"t-SNE (features of the last layer before the head), split {split:g}, seed {seed:g}; unknowns: a sample of at "
    )
    note += f"most {most:,}. Neighbourhoods count, distances between clusters do not."
    note = f"{note} {picked.note(*tidy.STORY)}"
    style.finish(figure, "feature_space", context, note, legend=(handles, names))
    if by_name:
        for axes, run in zip(panels, runs, strict=True):
            _name_classes(axes, data[(data["run"] == run) & known], classes)
    return figure, data


def _by_number(name: str) -> tuple[int, str]:
    """Sorts digits by value before names by letter."""
    return (int(name), "") if name.isdecimal() else (sys.maxsize, name)


def _look(position: int) -> dict[str, Any]:
    return {"color": COLORS[position % len(COLORS)], "marker": MARKERS[position % len(MARKERS)]}


def _legend(classes: list[str], by_name: bool) -> tuple[list[Line2D], list[str]]:
    unknown = Line2D([], [], marker="x", color=UNKNOWN, linestyle="none", markersize=4, markeredgewidth=0.8)
    if len(classes) > LEGEND_CLASSES:
        known = Line2D([], [], **_look(0), linestyle="none", markersize=4)
        return [known, unknown], [f"known, {len(classes)} classes by colour and marker", "unknown"]
    handles = [Line2D([], [], **_look(i), linestyle="none", markersize=4) for i in range(len(classes))]
    names = [f"known class {name}" if by_name and i == 0 else name for i, name in enumerate(classes)]
    names = ["class unknown" if name == "unknown" else name for name in names]
    return [*handles, unknown], [*names, "unknown"]


def _name_classes(axes, knowns: pd.DataFrame, classes: list[str]) -> None:
    """Writes the name of each class at its median."""
    medians = [(name, knowns.loc[knowns["class"] == name, ["x", "y"]].median().to_numpy()) for name in classes]
    medians = [(name, point) for name, point in medians if np.isfinite(point).all()]
    style.place_labels(
        axes,
        [tuple(point) for _, point in medians],
        [name for name, _ in medians],
        colors=[style.INK] * len(medians),
        clearance=0.0,
    )

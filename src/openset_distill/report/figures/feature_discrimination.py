"""Distributions of maximum logit and feature norm: how far unknowns lie from knowns, and at what magnitude."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .. import tidy
from ..context import Context
from . import style

QUANTITIES = {"maximum_logit": "Maximum logit", "feature_norm": "Feature norm"}
BINS = 40


@style.styled
def draw(tables: Mapping[str, pd.DataFrame], context: Context) -> tuple[Figure, pd.DataFrame]:
    """A column for each run, a row for each quantity; `tables` needs `activations` and `runs`.

    Histograms and means are of the sample of images in `activations`. The AUROC is that of all test images, from
    `runs`, the number that tables print; it is left out where the quantity is not among the scores evaluated.
    """
    activations = tables["activations"]
    picked = tidy.pick(context, activations)
    runs = picked.main(limit=5)
    tidy.require_runs("figure 'feature_discrimination'", runs, "a run of cross entropy, MSA or asymmetric distillation")
    labels = tidy.labels(activations)
    aurocs = {quantity: tidy.pair_values(tables["runs"], "auroc", score=quantity) for quantity in QUANTITIES}
    aurocs = {quantity: tidy.of_class_sets(values).mean() for quantity, values in aurocs.items()}
    shown = activations[activations["run"].isin(runs)]

    figure = style.new_figure(style.DOUBLE_COLUMN, 3.2)
    grid = figure.subplots(2, len(runs), squeeze=False, sharex="row", sharey="row")
    drawn = []
    for quantity, row in zip(QUANTITIES, grid, strict=True):
        edges = np.histogram_bin_edges(shown[quantity], bins=BINS)
        for axes, run in zip(row, runs, strict=True):
            part = shown[shown["run"] == run]
            drawn += _panel(axes, part, run, labels[run], quantity, edges, aurocs[quantity].get(run, np.nan))
    data = pd.DataFrame(drawn)
    for axes, run in zip(grid[0], runs, strict=True):
        axes.set_title(style.wrapped(labels[run], style.DOUBLE_COLUMN * 72 / len(runs) - 16, 8, "bold"))
    for axes in grid.flat:
        axes.set(yticks=[], ylabel="")
        axes.grid(False)
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
    for quantity, row in zip(QUANTITIES, grid, strict=True):
        top = data.loc[data["quantity"] == quantity, "density"].max()
        row[0].set_ylim(0, 1.32 * top)
        row[0].set_ylabel("Density")
        for axes in row:
            axes.set_xlabel(QUANTITIES[quantity])
    handles = [
        Patch(facecolor=style.KNOWN, alpha=0.45, edgecolor=style.KNOWN, label="known"),
        Patch(facecolor="none", edgecolor=style.UNKNOWN, hatch="//////", label="unknown"),
    ]
    images = int(shown.groupby(["run", "split", "seed"]).size().max())
    note = (
        f"Drawn: a sample of at most {images:,} test images a split and seed; vertical lines: its means. AUROC: "
        f"all test images, mean over class sets. {picked.note(*tidy.STORY)}"
    )
    style.finish(figure, "feature_discrimination", context, note, legend=(handles, ["known", "unknown"]))
    return figure, data


def _panel(
    axes, part: pd.DataFrame, run: str, label: str, quantity: str, edges: np.ndarray, auroc: float
) -> list[dict]:
    rows = []
    looks = {
        1: {"facecolor": to_rgba(style.KNOWN, 0.4), "edgecolor": style.KNOWN, "linewidth": 1.0},
        0: {"facecolor": "none", "edgecolor": style.UNKNOWN, "hatch": "//////", "linewidth": 1.0},
    }
    for known, look in looks.items():
        chosen = part[part["known"] == known]
        values = chosen[quantity].to_numpy()
        if values.size == 0:
            continue
        weights = _weights(chosen)
        mean = np.average(values, weights=weights)
        density, _ = np.histogram(values, bins=edges, weights=weights, density=True)
        sns.histplot(x=values, weights=weights, bins=list(edges), stat="density", element="step", ax=axes)
        axes.collections[-1].set(**look)
        dashes = "-" if known else (0, (4, 1.5))
        color = style.KNOWN if known else style.BLACK
        axes.plot([mean] * 2, [0, 1.06 * density.max()], color=color, linestyle=dashes, linewidth=1.2)
        rows += [
            {
                "run": run,
                "label": label,
                "quantity": quantity,
                "group": "known" if known else "unknown",
                "bin_low": low,
                "bin_high": high,
                "density": height,
                "mean": mean,
                "auroc_percent": auroc,
            }
            for low, high, height in zip(edges[:-1], edges[1:], density, strict=True)
        ]
    if np.isfinite(auroc):
        axes.text(0.98, 0.98, f"AUROC {auroc:.1f}", transform=axes.transAxes, ha="right", va="top", size=style.SMALL)
    return rows


def _weights(images: pd.DataFrame) -> np.ndarray:
    """A weight for each image, so that a class set counts once, however many replicates it has."""
    replicates = images.groupby(tidy.CLASS_SET)[["split", "seed"]].apply(lambda unit: len(unit.drop_duplicates()))
    return 1.0 / images[tidy.CLASS_SET].map(replicates).to_numpy(dtype=float)

"""What mixing does to teacher and students: confidence, hard samples and magnitude against lambda."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import tidy
from ..context import Context
from . import style

TEACHER = {
    "teacher_confidence": ("confidence", style.Look("#3a3a3a", "o", "-", 4.0)),
    "hard_share": ("hard samples", style.Look("#8a8a8a", "X", (0, (5, 1.6)), 4.6)),
}
ANCHORS = {"teacher_confidence": 0.3, "hard_share": 0.7}
STUDENT = {"maximum_logit": "Maximum logit", "feature_norm": "Feature norm"}
HARD = "Hard: the teacher's top class is neither source."
CUTMIX = (
    "CutMix: \N{GREEK SMALL LETTER LAMDA} is the area of a that is left around a box of b in the middle. A small box "
    "covers the middle of a, where the object is, and shows little of b's: the least is above one half."
)
MIXINGS = {"mixup": "Mixup", "cutmix": "CutMix"}


@style.styled
def draw(tables: Mapping[str, pd.DataFrame], context: Context) -> tuple[Figure, pd.DataFrame]:
    """A row for each kind of mixing; `tables` needs `mixing`.

    Confidence and hard samples are measured on the one network that taught, whatever its name.
    """
    table = tables["mixing"]
    picked = tidy.pick(context, table)
    runs = picked.main(distillation=True, limit=6)
    mixings = [mixing for mixing in MIXINGS if mixing in set(table["mixing"])]
    mixings += sorted(set(table["mixing"]) - set(mixings))
    labels = tidy.labels(table)
    look = style.looks(runs, tidy.families(table))

    figure = style.new_figure(style.DOUBLE_COLUMN, 0.2 + 1.75 * len(mixings))
    grid = figure.subplots(len(mixings), 3, squeeze=False, sharex=True, sharey="col")
    drawn = []
    for mixing, row in zip(mixings, grid, strict=True):
        part = table[table["mixing"] == mixing]
        drawn += _teacher_panel(row[0], part, mixing)
        for quantity, axes in zip(STUDENT, row[1:], strict=True):
            for run in runs:
                chosen = part[(part["run"] == run) & (part["quantity"] == quantity)]
                if chosen.empty:
                    continue
                line = style.mean_line(axes, chosen, "lam", "value", look[run], labels[run], marks=6)
                drawn.append(line.assign(mixing=mixing, run=run, label=labels[run], quantity=quantity))
            axes.set_ylabel(STUDENT[quantity])
            axes.set_ylim(bottom=0)
        name = MIXINGS.get(mixing, mixing)
        row[0].set_title(f"{name}: teacher")
        for axes in row[1:]:
            axes.set_title(f"{name}: students")
    tidy.require_runs("figure 'mixing_response'", drawn, "a measurement of a teacher or student")
    for axes in grid[-1]:
        axes.set_xlabel("Mixing weight λ")
        axes.set_xlim(-0.04, 1.04)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    handles = [Line2D([], [], **look[run].line()) for run in runs]
    several = table[tidy.CLASS_SET].nunique() > 1
    bars = style.BARS if several else style.NO_BARS
    style.finish(
        figure,
        "mixing_response",
        context,
        note=" ".join(filter(None, (HARD, CUTMIX if "cutmix" in mixings else "", bars, picked.note(*tidy.STORY)))),
        legend=(handles, [labels[run] for run in runs]) if runs else None,
    )
    for mixing, row in zip(mixings, grid, strict=True):
        _direct_labels(row[0], [line for line in drawn if line["mixing"].iloc[0] == mixing])
    columns = ["mixing", "run", "label", "quantity", "x", "mean", "std", "n"]
    return figure, pd.concat(drawn, ignore_index=True)[columns].rename(columns={"x": "lam"})


def _teacher_panel(axes, part: pd.DataFrame, mixing: str) -> list[pd.DataFrame]:
    drawn = []
    for quantity, (label, look) in TEACHER.items():
        chosen = part[part["quantity"] == quantity]
        if chosen.empty:
            continue
        percent = chosen.assign(value=100 * chosen["value"])
        line = style.mean_line(axes, percent, "lam", "value", look, label, marks=6, limits=(0, 100))
        name = chosen["label"].iloc[0]
        drawn.append(line.assign(mixing=mixing, run=chosen["run"].iloc[0], label=name, quantity=f"{quantity}_percent"))
    axes.set_ylim(-4, 104)  # whole markers at 0 and 100
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("Teacher (%)")
    return drawn


def _direct_labels(axes, lines: list[pd.DataFrame]) -> None:
    """Names the two lines of the teacher, the one to the left and the other to the right of their middle."""
    anchors, names, colors, segments = [], [], [], []
    for line in lines:
        quantity = line["quantity"].iloc[0].removesuffix("_percent")
        if quantity not in TEACHER:
            continue
        anchor = line.iloc[(line["x"] - ANCHORS[quantity]).abs().argmin()]
        anchors.append((anchor["x"], anchor["mean"]))
        names.append(TEACHER[quantity][0])
        colors.append(style.INK if quantity == "teacher_confidence" else style.SOFT)
        points = list(zip(line["x"], line["mean"], strict=True))
        segments += itertools.pairwise(points)
    if names:
        style.place_labels(axes, anchors, names, colors=colors, lines=segments)

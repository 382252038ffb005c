"""The claims as a figure: a row for each claim, a panel for each data, the interval coloured by its verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..core.errors import DataError
from ..evaluation.statistics import PairedDifference
from .claims import CONFIRMED, CONTRADICTED, NO_DIFFERENCE, UNDECIDED, Claim, ClaimsFile, Judged, Results, class_sets
from .claims_output import outcome_words
from .context import counted, score_words
from .figures import style

# colour, marker, filled
LOOKS = {
    CONFIRMED: (style.GREEN, "o", True),
    CONTRADICTED: (style.VERMILION, "s", True),
    NO_DIFFERENCE: (style.BLUE, "D", True),
    UNDECIDED: (style.SOFT, "o", False),
}
LABEL_POINTS = 205.0
TITLE_POINTS = 120.0
ACCURACY_DROP = 0.26  # rows below the outcome, of the accuracy that a claim also speaks of
REACH = 2.0  # intervals are drawn to this many times the largest difference: few class sets have very wide ones


@style.styled
def draw(judged: Sequence[Judged], claims: ClaimsFile, results: Mapping[str, Sequence[Results]]) -> Figure:
    """The deciding score's differences on the data in `results`, in points with their intervals.

    Raises:
        DataError: nothing was judged on these data.
    """
    deciding = [one for one in judged if one.decides and one.data in results]
    if not deciding:
        raise DataError("all data are of earlier studies, which the figure does not draw; leave out --figure")
    rows = [claim for claim in claims.claims if any(one.claim is claim for one in deciding)]
    height = {id(claim): len(rows) - 1 - row for row, claim in enumerate(rows)}
    figure = style.new_figure(style.DOUBLE_COLUMN, 0.5 + 0.34 * len(rows))
    shown = [found for one in deciding for found in (one.found, one.accuracy) if found]
    reach = REACH * max(abs(found.difference) for found in shown)
    panels = figure.subplots(1, len(results), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (data, of_data) in zip(panels, results.items(), strict=True):
        axes.axvline(0, color="#8a8a8a", linewidth=0.9, zorder=1)
        empty = set(height.values())
        for one in (one for one in deciding if one.data == data):
            y = height[id(one.claim)]
            empty.discard(y)
            axes.fill_betweenx([y - 0.5, y + 0.5], -one.margin, one.margin, color="#ececec", linewidth=0, zorder=0)
            _interval(axes, y, one.found, reach, *LOOKS[one.verdict])
            if one.accuracy:
                _interval(axes, y - ACCURACY_DROP, one.accuracy, reach, style.SOFT, "|", True, thin=True)
        for y in empty:
            axes.text(0, y, "  not run", size=style.SMALL, color=style.SOFT, va="center")
        title = f"{style.wrapped(data, TITLE_POINTS)}\n({counted(class_sets(of_data), 'class set')})"
        axes.set_title(title, size=style.SMALL + 1)
        axes.set_yticks(list(height.values()), [_label(claim) for claim in rows], size=style.SMALL)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        axes.set_xlabel("Difference (points)")
        axes.set_ylim(-0.7, len(rows) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
    found = {one.verdict for one in deciding}
    handles = [_handle(*look) for verdict, look in LOOKS.items() if verdict in found]
    names = [verdict for verdict in LOOKS if verdict in found]
    if any(one.accuracy for one in deciding):
        handles.append(Line2D([], [], color=style.SOFT, linewidth=0.8, marker="|", markersize=4))
        names.append("accuracy, where it must be kept")
    note = (
        f"AUROC of the {score_words(claims.scores[0])}, or what the claim names after its words: means over class sets "
        "of the difference on the same class set, with 95 % t intervals. Grey: within the margin."
    )
    if any(found.low < -reach or found.high > reach for found in shown):
        note += " Arrow: the interval extends further."
    style.lay_out(figure, "What the runs say of each claim", (note,), (handles, names))
    return figure


def _label(claim: Claim) -> str:
    words = claim.claim
    if claim.outcome != "auroc":
        words += f": {outcome_words(claim)}"
    return style.wrapped(words, LABEL_POINTS)


def _handle(color: str, marker: str, filled: bool) -> Line2D:
    face = color if filled else "white"
    return Line2D([], [], color=color, linewidth=1.5, marker=marker, markersize=4.5, markerfacecolor=face)


def _interval(
    axes: Axes,
    y: float,
    found: PairedDifference,
    reach: float,
    color: str,
    marker: str,
    filled: bool,
    thin: bool = False,
) -> None:
    """A difference and its interval, with arrows where the interval extends beyond `reach`."""
    if not math.isnan(found.low):
        low, high = max(found.low, -reach), min(found.high, reach)
        axes.plot([low, high], [y, y], color=color, linewidth=0.8 if thin else 1.5, zorder=2)
        for end, cut, arrow in ((low, low > found.low, "<"), (high, high < found.high, ">")):
            if cut:
                axes.plot(end, y, marker=arrow, markersize=3 if thin else 4.5, color=color, zorder=2)
    axes.plot(
        found.difference, y, marker=marker, markersize=4 if thin else 4.5, markeredgecolor=color, zorder=3,
        markerfacecolor=color if filled else "white", linestyle="none",
    )  # fmt: skip

"""Where teacher and students look in mixed images, beside what the teacher sees in the raw ones."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from ...core.errors import DataError
from .. import tidy
from ..context import Context
from . import style

HEAT = "inferno"
PITCH, LINE = 0.88, 0.125  # inches: from one pair to the next, and a line of words
SUMMARY = {
    "named_percent": "Predicts a or b, of {n} pairs",
    "on_named_percent": "Grad-CAM on the predicted one",
    "area_named_percent": "Area of that one",
}


@style.styled
def draw(tables: Mapping[str, pd.DataFrame], context: Context) -> tuple[Figure, pd.DataFrame]:
    """A row for each pair, a column for each picture or map; `tables` needs `attention` and `pictures`."""
    attention, pictures = tables["attention"], tables["pictures"]
    picked = tidy.pick(context, attention)
    labels = tidy.labels(attention)
    teachers = attention.loc[attention["family"] == "teacher", "run"].unique()[:1].tolist()
    networks = list(dict.fromkeys([*teachers, *picked.main(limit=4)]))
    tidy.require_runs("figure 'attention'", networks, "a teacher, or a run of cross entropy, MSA or AD")
    shown = sorted(pictures["pair"].unique())
    mixed = attention[attention["view"] == "mixed"]
    area = mixed.groupby("pair")["area_b"].first()
    columns = [("a", None), ("b", None), ("mixed", None)]
    columns += [(view, run) for run in teachers for view in "ab"] + [("mixed", run) for run in networks]
    room = style.DOUBLE_COLUMN * 72 / len(columns) - 5  # points, for words in one column

    titles = []
    for view, run in columns:
        title = view if run is None else labels[run] if view == "mixed" else f"{labels[run]} on\N{NO-BREAK SPACE}{view}"
        titles.append(style.wrapped(title, room, style.SMALL, "bold"))

    above, below = LINE * max(title.count("\n") + 1 for title in titles), 1.6 * LINE * len(SUMMARY)
    figure = style.new_figure(style.DOUBLE_COLUMN, PITCH * len(shown) + above + below + 0.1)
    ratios = {"height_ratios": [*([PITCH] * len(shown)), below]}
    grid = figure.subplots(len(shown) + 1, len(columns), squeeze=False, gridspec_kw=ratios)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, loc="center", size=style.SMALL)
    drawn = []
    for pair, row in zip(shown, grid, strict=False):
        seen = pictures[pictures["pair"] == pair].set_index("view")["picture"].map(_picture)
        names = pictures[pictures["pair"] == pair].set_index("view")["class"]
        answers = attention[attention["pair"] == pair].set_index(["run", "view"])
        box = np.asarray(seen["pasted"])
        for (view, run), axes in zip(columns, row, strict=True):
            if run is None:
                axes.imshow(seen[view], cmap="gray", vmin=0, vmax=255)
                words = _short(names[view]) if view in ("a", "b") else f"b: {_percent(100 * area[pair])}"
            else:
                answer = answers.loc[[(run, view)]]
                numbers = _numbers(answer, run, labels[run], f"{pair + 1:g}", view)
                drawn.append(numbers)
                # the image is grey under a map, so that all colour is the map's
                axes.imshow(seen[view].convert("L"), cmap="gray", vmin=0, vmax=255)
                heat = _picture(answer["map"].item())
                axes.imshow(heat, cmap=HEAT, vmin=0, vmax=255, alpha=0.6, extent=axes.images[0].get_extent())
                source = numbers["predicted"]
                words = source if source == "neither" else f"class {source}"
                words += f"\nb: {_percent(numbers['on_b_percent'])}" if view == "mixed" else ""
            if view == "mixed":
                axes.add_patch(_outline(box))
            axes.set_xlabel(words, size=style.SMALL, labelpad=2)
    for run, axes in zip(networks, grid[-1, -len(networks) :], strict=True):
        numbers = _numbers(mixed[mixed["run"] == run], run, labels[run], "all", "mixed")
        drawn.append(numbers)
        for line, quantity in enumerate(SUMMARY):
            _word(axes, 0.5, line, _percent(numbers[quantity]), ha="center", weight="bold")
    for line, words in enumerate(SUMMARY.values()):
        _word(grid[-1, -len(networks) - 1], 1.0, line, words.format(n=mixed["pair"].nunique()), ha="right")
    data = pd.DataFrame(drawn)
    split, seed = pictures[["split", "seed"]].iloc[0]
    note = (
        "Heat maps: Grad-CAM of the predicted class, named below (that of a, of b, or neither), on the mixed image "
        "where not stated otherwise. Outlined: b's place; below, b's share of the area, and of each map. "
        f"Split {split:g}, seed {seed:g}; the pairs were drawn, not chosen. {picked.note(*tidy.STORY)}"
    )
    style.finish(figure, "attention", context, note)
    return figure, data


def _outline(mask: np.ndarray) -> Rectangle:
    """The box of a mask uint8 `[height, width]`, white with a dark edge, so that it shows on every ground."""
    top, bottom = np.flatnonzero(mask.max(axis=1) > 127)[[0, -1]]
    left, right = np.flatnonzero(mask.max(axis=0) > 127)[[0, -1]]
    edge = withStroke(linewidth=1.6, foreground=style.INK)
    return Rectangle(
        (left - 0.5, top - 0.5),
        right - left + 1,
        bottom - top + 1,
        fill=False,
        edgecolor="white",
        linewidth=0.8,
        path_effects=[edge],
        clip_on=False,
    )


def _numbers(rows: pd.DataFrame, run: str, label: str, pair: str, view: str) -> dict[str, Any]:
    """Means over pairs: how often a network predicts a or b, and the map's share and the area of that one, and of b."""
    named = rows[rows["predicted"] != "neither"].dropna(subset=["on_b"])
    of_b = named["predicted"] == "b"
    on_b, area_b = named["on_b"], named["area_b"]
    return {
        "run": run,
        "label": label,
        "pair": pair,
        "view": view,
        "pairs": len(rows),
        "predicted": rows["predicted"].iloc[0] if len(rows) == 1 else "any",
        "named_percent": 100 * (rows["predicted"] != "neither").mean(),
        "on_named_percent": 100 * on_b.where(of_b, 1 - on_b).mean(),
        "area_named_percent": 100 * area_b.where(of_b, 1 - area_b).mean(),
        "on_b_percent": 100 * rows["on_b"].mean(),
        "area_b_percent": 100 * rows["area_b"].mean(),
    }


def _word(axes: Axes, x: float, line: int, text: str, **look: Any) -> None:
    """Words in a line of the last row, which may reach into the columns to their left."""
    y = 1 - (line + 0.5) / len(SUMMARY)
    word = axes.text(x, y, text, transform=axes.transAxes, va="center", size=style.SMALL, **look)
    word.set_in_layout(False)


def _short(name: str) -> str:
    """A class name that fits under a picture; one of ImageNet's identifiers does."""
    return name if len(name) <= 9 else name[:8] + "\N{HORIZONTAL ELLIPSIS}"


def _percent(number: float) -> str:
    return f"{number:.0f} %" if np.isfinite(number) else "none"


def _picture(text: str) -> Image.Image:
    """The picture that a table holds as text."""
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
        picture.load()
    except (ValueError, OSError) as error:
        raise DataError(
            f"a picture in the tidy tables cannot be read ({error}); make them again with the rule {tidy.RULE}"
        ) from error
    return picture

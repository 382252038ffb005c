"""One look for all figures: colours, sizes, heading and footer, label placement, and files without dates."""

from __future__ import annotations

import functools
import io
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.style
import numpy as np
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from ...core.files import atomic_write
from ...core.text import printable
from ..context import Context, sentence
from ..tidy import CLASS_SET, spreadsheet_columns
from . import FIGURES

DOUBLE_COLUMN = 6.9  # inches, the width of every figure
DPI = 200
SMALL = 7.0  # points; nothing in a figure is smaller
INK = "#222222"
SOFT = "#5f5f5f"

# Where DejaVu Sans has no glyph, the first of these that is installed and has one: other scripts, emoji. Figures in
# Latin letters are the same with and without them.
OTHER_SCRIPTS = (
    "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP",
    "Noto Sans KR", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback",
    "IPAGothic", "NanumGothic", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "SimHei",
    "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Noto Sans Arabic",
    "Noto Sans Hebrew", "Noto Sans Ethiopic", "Arial Unicode MS", "Noto Emoji", "Symbola",
)  # fmt: skip
_INSTALLED = {font.name for font in fontManager.ttflist}
FAMILIES = ("DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in _INSTALLED))

STYLE = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,
    # unhinted text has the same extent at every resolution, so the layout of the PNG is the layout of the PDF
    "text.hinting": "none",
    # names and labels are text: a dollar sign begins no formula
    "text.parse_math": False,
    "font.family": list(FAMILIES),
    "font.size": 8,
    "text.color": INK,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 5,
    "axes.labelsize": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8a8a8a",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": "#8a8a8a",
    "ytick.color": "#8a8a8a",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.5,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "legend.columnspacing": 1.6,
}

# Okabe and Ito, "Color universal design" (2008): told apart with every common kind of colour vision
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
# family: colour and marker; the markers carry the difference where colour is lost
FAMILY_LOOK = {
    "teacher": ("#7a7a7a", "X"),
    "cross_entropy": (BLACK, "o"),
    "baseline": (BLUE, "P"),
    "ssa": (SKY, "^"),
    "msa": (ORANGE, "s"),
    "distillation": (GREEN, "D"),
    "ablation": (PURPLE, "v"),
    "asymmetric": (VERMILION, "*"),
}
MARKER_SCALE = {"*": 1.6, "X": 1.15, "D": 0.9}
DASHES = (
    "-",
    (0, (5, 1.6)),
    (0, (1.2, 1.4)),
    (0, (6, 1.4, 1.2, 1.4)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
    (0, (2.4, 1.2)),
)
Segment = tuple[tuple[float, float], tuple[float, float]]
# behind labels on top of points; an outline around the letters would make the PDF's text unsearchable
LABEL_GROUND = {"boxstyle": "round,pad=0.08", "facecolor": "white", "alpha": 0.72, "linewidth": 0}
KNOWN, UNKNOWN = BLUE, "#4d4d4d"


def styled(draw: Callable) -> Callable:
    """Decorator: `draw` runs with the look of this project alone, whatever the user's own matplotlib settings are."""

    @functools.wraps(draw)
    def wrapper(*args, **kwargs):
        with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
            # `save` says so once, with the remedy
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that belongs to no window system and no global state.

    Args:
        width: inches, of the whole figure.
        height: inches, of its panels alone; `finish` adds what heading, legend and footer take.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@dataclass(frozen=True)
class Look:
    """How one run is drawn."""

    color: str
    marker: str
    dashes: Any  # a line style of matplotlib
    size: float  # marker size in points
    phase: float = 0.0  # where on a line its markers begin, so that markers of close lines do not hide each other

    def line(self) -> dict[str, Any]:
        """Keyword arguments of a line with markers."""
        return {
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.dashes,
            "markersize": self.size,
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
        }


def looks(runs: Sequence[str], families: dict[str, str]) -> dict[str, Look]:
    """A look for each run: colour and marker by family, dashes by position; the second of a family is darker."""
    seen: dict[str, int] = {}
    chosen = {}
    for position, run in enumerate(runs):
        family = families[run]
        color, marker = FAMILY_LOOK[family]
        again = seen.get(family, 0)
        seen[family] = again + 1
        if again:
            # a third, darker still, would be taken for black
            rgb = np.array(to_rgb(color))
            red, green, blue = 0.62 * rgb if again == 1 else 0.58 * rgb + 0.42
            color = to_hex((red, green, blue))
            marker = ("P", "p", "h", "8")[(again - 1) % 4]
        size = 4.5 * MARKER_SCALE.get(marker, 1.0)
        chosen[run] = Look(color, marker, DASHES[position % len(DASHES)], size, (position + 0.5) / len(runs))
    return chosen


BARS = "Bars: one standard deviation over class sets."
NO_BARS = "One class set: no bars."


def mean_line(
    axes: Axes,
    table,
    x: str,
    y: str,
    look: Look,
    label: str,
    marks: int = 7,
    limits: tuple[float, float] = (-np.inf, np.inf),
):
    """Draws the mean of `y` at each `x`, with a bar of one standard deviation at each marker; returns what was drawn.

    Bands of several lines on top of each other would blend to one colour of mud.

    Args:
        table: one row for each (x, class set, split, seed); the replicates of a class set are averaged.
        marks: about how many markers the line carries.
        limits: what `y` can be; a bar ends there.

    Returns:
        A DataFrame with the columns x, mean, std and n; std is NaN where there is a single value.
    """
    class_sets = table.dropna(subset=[y]).groupby([x, CLASS_SET], sort=False)[y].mean()
    drawn = (
        class_sets.groupby(level=x, sort=True)
        .agg(["mean", "std", "count"])
        .reset_index()
        .rename(columns={"count": "n", x: "x"})
    )
    every = max(1, round(len(drawn) / marks))
    first = int(look.phase * every)
    words = {"xlabel": axes.get_xlabel(), "ylabel": axes.get_ylabel()}
    # the table holds means: there is nothing left to estimate
    drawing = {"estimator": None, "legend": False, "markevery": (first, every)}
    sns.lineplot(drawn, x="x", y="mean", ax=axes, label=label, **drawing, **look.line())
    axes.set(**words)  # not the names of these columns
    marked = drawn.iloc[first::every].dropna(subset=["std"])
    low, high = (np.clip(marked["mean"] + sign * marked["std"], *limits) for sign in (-1, 1))
    axes.vlines(marked["x"], low, high, color=look.color, linewidth=1.0, alpha=0.6, zorder=2)
    return drawn


def finish(
    figure: Figure,
    name: str,
    context: Context,
    note: str = "",
    legend: tuple[Sequence[Artist], Sequence[str]] | None = None,
) -> None:
    """Adds heading, footer and a legend below the axes, lays the figure out once and keeps that layout.

    The footer states experiment, splits, seeds, dataset and setting, so that a figure taken out of its context still
    says what it shows.

    Args:
        name: the figure's name in the registry, which gives the heading.
        note: what this figure must say on its own: error bars, left-out runs.
        legend: handles and labels.
    """
    about = sentence(f"{context.title} ({context.experiment}), {context.scale()}")
    about = f"{about} {sentence(context.dataset_title)} {context.about()}".rstrip()
    lay_out(figure, FIGURES[name].title, (sentence(note), about), legend)


def lay_out(
    figure: Figure,
    heading_text: str,
    footer_texts: Iterable[str],
    legend: tuple[Sequence[Artist], Sequence[str]] | None = None,
) -> None:
    """Adds a heading, a footer of one or more paragraphs and a legend, lays the figure out once and keeps that layout.

    Freezing the layout makes every later drawing, PNG or PDF, the same.
    """
    width, panels = figure.get_size_inches() * 72  # points
    margin, gap = 6.0, 4.0
    small = "\n".join(wrapped(printable(part), width - 2 * margin) for part in footer_texts if part)
    heading = figure.text(margin / width, 1, heading_text, weight="bold", size=9, va="top")
    footer = figure.text(margin / width, 0, small, size=SMALL, color=SOFT, va="bottom", linespacing=1.25)
    top = margin + _height(figure, heading) + gap / 2
    below_legend = margin + _height(figure, footer) + gap
    bottom = below_legend
    if legend is not None:
        drawn = _legend(figure, legend, width - 2 * margin)
        bottom += _height(figure, drawn)
    height = panels + top + bottom
    figure.set_size_inches(width / 72, height / 72)
    heading.set_y(1 - margin / height)
    footer.set_y(margin / height)
    if legend is not None:
        drawn.set_bbox_to_anchor((0.5, below_legend / height), transform=figure.transFigure)
    for artist in (heading, footer, *figure.legends):
        artist.set_in_layout(False)
    pad = margin / 72
    area = (0, bottom / height, 1, panels / height)
    engine: Any = figure.get_layout_engine()  # the constrained one, of `new_figure`
    engine.set(rect=area, w_pad=pad, h_pad=pad, wspace=0.04, hspace=0.04)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        # the solver's last digits depend on the order in which it visits its variables
        axes.set_position(Bbox.from_bounds(*(round(part, 9) for part in axes.get_position().bounds)))


def _height(figure: Figure, artist: Artist) -> float:
    """Height of something drawn, in points."""
    return artist.get_window_extent().height * 72 / figure.dpi


def _legend(figure: Figure, legend: tuple[Sequence[Artist], Sequence[str]], room: float) -> Legend:
    """A legend in as few rows as fit into `room` points of width."""
    handles, labels = legend
    lines = any(isinstance(handle, Line2D) and handle.get_linestyle() != "None" for handle in handles)
    for rows in range(1, len(labels) + 1):
        columns = -(-len(labels) // rows)
        drawn = figure.legend(
            handles,
            labels,
            ncols=columns,
            loc="lower center",
            borderaxespad=0,
            handlelength=2.8 if lines else 1.2,
            handletextpad=0.7 if lines else 0.4,
        )
        if columns == 1 or drawn.get_window_extent().width * 72 / figure.dpi <= room:
            break
        drawn.remove()
    return drawn


@functools.cache
def _measure() -> RendererAgg:
    return RendererAgg(1, 1, DPI)


def _text_width(text: str, size: float, weight: str) -> float:
    font = FontProperties(family=list(FAMILIES), size=size, weight=weight)
    return _measure().get_text_width_height_descent(text, font, ismath=False)[0] * 72 / DPI


def wrapped(text: str, width: float, size: float = SMALL, weight: str = "normal") -> str:
    """`text` with line breaks, so that it is no wider than `width` points (a single long word excepted)."""
    lines: list[str] = []
    for word in text.split(" "):  # not at no-break spaces
        if lines and _text_width(f"{lines[-1]} {word}", size, weight) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)


def place_labels(
    axes: Axes,
    anchors: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    colors: Sequence[str],
    lines: Iterable[Segment] = (),
    light_lines: Iterable[Segment] = (),
    clearance: float = 5.0,
) -> None:
    """Writes a label near each anchor without overlaps, with a thin leader line where it had to move away.

    Greedy and deterministic: candidates around the anchor are tried in a fixed order, the most crowded anchors first,
    and up to three sweeps let earlier labels move once the later ones are known. Call it after `finish`.

    Args:
        anchors: points in data coordinates.
        lines: what labels should not cross, as pairs of points in data coordinates.
        light_lines: what they may cross where that keeps them near, for example error bars.
        clearance: half the size of a marker, in points.
    """
    figure = axes.figure
    pixel = figure.dpi / 72  # pixels a point
    to_pixels = axes.transData.transform
    anchored = np.asarray([to_pixels(anchor) for anchor in anchors]).reshape(-1, 2)
    clear = clearance * pixel
    markers = np.concatenate([anchored - clear, anchored + clear], axis=1)
    heavy, light = (_sampled(segments, to_pixels) for segments in (lines, light_lines))
    radius, angle = _candidates()

    artists = [
        axes.text(0, 0, text, size=SMALL, color=color, ha="center", va="center", zorder=6, bbox=LABEL_GROUND)
        for text, color in zip(texts, colors, strict=True)
    ]
    sizes = [np.asarray(artist.get_window_extent().size) for artist in artists]
    crowd = (np.linalg.norm(anchored[:, None] - anchored[None], axis=-1) < 45 * pixel).sum(axis=1)
    order = sorted(range(len(artists)), key=lambda i: (-crowd[i], i))

    placed: dict[int, np.ndarray] = {}
    for _ in range(3):
        before = dict(placed)
        for i in order:
            rest = [j for j in placed if j != i]
            labels = np.asarray([placed[j] for j in rest]).reshape(-1, 4)
            others = np.delete(markers, i, axis=0)
            boxes = _boxes_around(anchored[i], sizes[i], clear + radius * pixel, angle)
            leaders = _leaders(anchored[rest], labels).reshape(-1, 2)
            own = _leaders(np.broadcast_to(anchored[i], (len(boxes), 2)), boxes)
            cost = radius / 12 + 0.15 * np.abs(np.sin(angle))
            cost += 60 * _overlap(boxes, labels, 1.5 * pixel) + 40 * _overlap(boxes, others, 0.5 * pixel)
            cost += (
                0.3 * _inside(boxes, heavy, 1.5 * pixel) + 0.05 * _inside(boxes, light) + 0.5 * _inside(boxes, leaders)
            )
            # a label that moved away has a leader line, which should not run through other labels and markers
            crossed = 0.8 * _inside(labels, own).sum(axis=0) + 0.4 * _inside(others, own).sum(axis=0)
            cost += np.where(radius > 3, crossed, 0)
            frame = axes.bbox
            outside = (boxes[:, :2] < frame.min).any(axis=1) | (boxes[:, 2:] > frame.max).any(axis=1)
            cost += 1000 * outside
            placed[i] = boxes[np.argmin(cost)]
        if before and all(np.array_equal(before[i], placed[i]) for i in order):
            break
    back = axes.transData.inverted().transform
    for i, artist in enumerate(artists):
        x, y = back((placed[i][:2] + placed[i][2:]) / 2)
        artist.set_position((x, y))
        end = np.clip(anchored[i], placed[i][:2], placed[i][2:])
        length = np.linalg.norm(end - anchored[i])
        if length > clear + 5 * pixel:
            (x0, y0), (x1, y1) = back([anchored[i] + (end - anchored[i]) * clear / length, end])
            axes.plot([x0, x1], [y0, y1], color="#9a9a9a", linewidth=0.6, zorder=2, scalex=False, scaley=False)


def _sampled(segments: Iterable[Segment], to_pixels: Callable) -> np.ndarray:
    """Points at every third pixel of the segments, `[n, 2]`."""
    parts = [np.empty((0, 2))]
    for segment in segments:
        start, end = to_pixels(segment)
        parts.append(np.linspace(start, end, 2 + int(np.linalg.norm(end - start) / 3)))
    return np.concatenate(parts)


def _candidates() -> tuple[np.ndarray, np.ndarray]:
    """Distances in points and angles, both `[candidates]`: nearest first, to the right before anything else."""
    angles = [0, np.pi, np.pi / 2, -np.pi / 2]
    angles += [k * np.pi / 8 for k in (1, -1, 2, -2, 3, -3, 5, -5, 6, -6, 7, -7)]
    radii = (1.0, 3.0, 7.0, 12.0, 18.0, 25.0, 34.0, 45.0)
    return np.repeat(radii, len(angles)), np.tile(angles, len(radii))


def _boxes_around(anchor: np.ndarray, size: np.ndarray, reach: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Boxes `(x0, y0, x1, y1)` of one label for each candidate: beside the anchor, above and below it centred."""
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    centre = anchor + direction * reach[:, None] + np.clip(1.5 * direction, -1, 1) * size / 2
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def _overlap(boxes: np.ndarray, others: np.ndarray, pad: float) -> np.ndarray:
    """For each of `boxes [n, 4]`: how many of `others [m, 4]` it touches, plus the share of it that they cover."""
    low = np.maximum(boxes[:, None, :2] - pad, others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:] + pad, others[None, :, 2:])
    touched = (high > low).all(axis=-1)
    shared = np.where(touched, (high - low).prod(axis=-1), 0.0).sum(axis=1)
    return touched.sum(axis=1) + shared / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _inside(boxes: np.ndarray, points: np.ndarray, pad: float = 0.0) -> np.ndarray:
    """For each of `boxes [n, 4]` the number of `points [..., m, 2]` in it: `[n, ...]`."""
    shape = (len(boxes),) + (1,) * (points.ndim - 1) + (2,)
    low, high = boxes[:, :2].reshape(shape) - pad, boxes[:, 2:].reshape(shape) + pad
    return ((points > low) & (points < high)).all(axis=-1).sum(axis=-1)


def _leaders(anchors: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Points of the lines from the anchors to their labels, without the part at the marker: `[n, 20, 2]`."""
    ends = np.clip(anchors, boxes[:, :2], boxes[:, 2:])
    share = np.linspace(0, 1, 24)[4:, None]
    return anchors[:, None] + share * (ends - anchors)[:, None]


def letters_without_glyph(text: str) -> str:
    """The letters of `text` that none of the fonts has, each once; a figure shows a box for them."""
    letters = dict.fromkeys(letter for letter in text if not letter.isascii())
    fonts = [get_font(fontManager.findfont(FontProperties(family=name))) for name in FAMILIES] if letters else []
    return "".join(letter for letter in letters if not any(font.get_char_index(ord(letter)) for font in fonts))


def save(figure: Figure, data, pdf: str | os.PathLike, png: str | os.PathLike, csv: str | os.PathLike) -> None:
    """Writes the figure and the data that it shows, without dates and versions: same input, same bytes."""
    for path, kind in ((pdf, "pdf"), (png, "png")):
        with atomic_write(path) as partial:
            partial.write_bytes(rendered(figure, kind))
    with atomic_write(csv) as partial:
        spreadsheet_columns(data).to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as a `pdf` or `png`, without dates and versions: same input, same bytes."""
    boxes = letters_without_glyph("".join(text.get_text() for text in figure.findobj(Text)))
    if boxes and kind == "png":
        print(
            f"no installed font has {boxes[:40]}: boxes are drawn; install Noto Sans for this script and draw it again"
        )
    # drawn in memory: matplotlib hides a full disk behind an error of its own
    drawn = io.BytesIO()
    nothing = {"Creator": None, "Producer": None, "CreationDate": None} if kind == "pdf" else {"Software": None}
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(drawn, format=kind, metadata=nothing, dpi=DPI if kind == "png" else "figure")
    return drawn.getvalue()

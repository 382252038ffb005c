"""A finished experiment at a glance: the table on the terminal, the page that a report opens on, the last error."""

from __future__ import annotations

import base64
import csv
import itertools
import textwrap
from pathlib import Path

from ..core.text import printable, rst_escape
from .context import Context, counted, score_words
from .summary import summarize
from .tidy import MAIN_METRICS, decimal


def show(tidy: str, figures: str, tables: str, context: Context) -> None:
    """Prints the summary of an experiment whose tidy tables exist; says nothing before there are any."""
    path = Path(tidy) / "runs.csv"
    if not path.exists():
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title, labels, cells = _headline(path, context)
    table = Table(title=title, title_justify="left")
    table.add_column("run")
    for title in MAIN_METRICS.values():
        table.add_column(title, justify="right")
    for run, values in cells.items():
        table.add_row(escape(printable(labels[run])), *(values.get(metric, "") for metric in MAIN_METRICS))
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    places = {"figures": figures, "tables": tables}
    made = [f"{kind}: {folder}/" for kind, folder in places.items() if Path(folder).is_dir()]
    console.print("   ".join(made), highlight=False)


def _headline(path: Path, context: Context) -> tuple[str, dict[str, str], dict[str, dict[str, str]]]:
    """What the main numbers are of, run -> label, and run -> metric -> its mean and deviation as text."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [_complete(row, context) for row in csv.DictReader(stream) if _is_headline(row, context.score)]
    cells: dict[str, dict[str, str]] = {}
    labels: dict[str, str] = {}
    for row in summarize(rows, ""):
        labels[row["run"]] = row["label"]
        spread = f" ± {decimal(100 * row['std'])}" if row["n"] > 1 else ""
        cells.setdefault(row["run"], {})[row["metric"]] = f"{decimal(100 * row['mean'])}{spread}"
        first = row
    several = "mean ± standard deviation over " if first["n"] > 1 else ""
    title = (
        f"{first['experiment']}: {first['dataset']}, {context.scale()}; "
        f"percent, {several}{counted(first['n'], 'class set')}, score: {score_words(context.score)}"
    )
    return title, labels, cells


def introduction(tidy: str, figures: str, context: Context) -> str:
    """The page that a report opens on, as reStructuredText: what it is of, the verdict, main figure, main numbers."""
    title, labels, cells = _headline(Path(tidy) / "runs.csv", context)
    parts = context.highlight
    heading = f"{rst_escape(context.title)}"
    lines = [heading, "=" * (2 * len(heading)), "", rst_escape(f"{context.dataset_title}. {context.about()}"), ""]

    def best(run: str) -> float:
        return float(cells[run]["auroc"].split()[0])

    asymmetric = [run for run in parts.asymmetric if run in cells]
    if parts.baseline in cells and parts.msa in cells and asymmetric:
        winner = max(asymmetric, key=best)
        numbers = [
            f"{labels[run]}: accuracy {cells[run]['accuracy']}, AUROC {cells[run]['auroc']}"
            for run in (parts.baseline, parts.msa, winner)
        ]
        gains = [
            float(cells[winner][metric].split()[0]) > float(cells[parts.baseline][metric].split()[0])
            for metric in ("accuracy", "auroc")
        ]
        where = {2: "both accuracy and AUROC", 0: "neither accuracy nor AUROC"}
        verdict = where.get(sum(gains), f"{'accuracy' if gains[0] else 'AUROC'} alone")
        words = (
            f"The best asymmetric distillation ({labels[winner]}) has a higher mean than {labels[parts.baseline]} in "
            f"{verdict}. {'; '.join(numbers)}. The table Paired comparisons says how sure that is."
        )
        lines += [f"**{rst_escape(words)}**", ""]
    picture = Path(figures) / "two_sides.png"
    if picture.exists():
        pixels = base64.b64encode(picture.read_bytes()).decode()
        # reStructuredText takes no line of more than 10,000 letters
        address = textwrap.wrap(f"data:image/png;base64,{pixels}", 9000)
        lines += [".. image:: " + "\n   ".join(address), "   :width: 100%", ""]
    lines += [rst_escape(title) + ".", "", ".. list-table::", "   :header-rows: 1", ""]
    for row in (
        ["run", *MAIN_METRICS.values()],
        *([labels[run], *map(of.get, MAIN_METRICS)] for run, of in cells.items()),
    ):
        first, *rest = (rst_escape(printable(cell or "")) for cell in row)
        lines += [f"   * - {first}", *(f"     - {cell}" for cell in rest)]
    return "\n".join(lines) + "\n"


def last_error(log: str) -> str:
    """Why a job failed, from its log: the last `error:` line with the lines that belong to it, or the last line."""
    try:
        lines = Path(log).read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    except OSError:
        lines = []
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:
        return f"error: {lines[-1]}" if lines else f"error: it ended without a word in {log}; look for memory and disk"
    first, *rest = lines[starts[-1] :]
    belonging = itertools.takewhile(lambda line: line.startswith(" "), rest)
    return "\n".join([first, *belonging])


def _complete(row: dict[str, str], context: Context) -> dict[str, object]:
    """With a class set, also from tables that were made before they had the column."""
    name = row.get("class_set") or context.class_sets.get(int(row["split"]), row["split"])
    return {**row, "class_set": name, "value": float(row["value"])}


def _is_headline(row: dict[str, str], score: str) -> bool:
    if row["metric"] == "accuracy":
        return True
    return (
        row["metric"] in MAIN_METRICS and row["score"] == score and row["sampling"] == "full" and row["group"] == "all"
    )

"""The one screen at the end: the headline numbers, and where to look."""

from __future__ import annotations

import csv
from pathlib import Path

from ..core.text import printable

COLUMNS = {"accuracy": "accuracy", "auroc": "AUROC", "fpr95": "FPR95", "oscr": "OSCR"}


def show(tidy: str, figures: str, tables: str) -> None:
    """Prints the summary of an experiment whose tidy tables exist; says nothing before there are any."""
    path = Path(tidy) / "summary.csv"
    if not path.exists():
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    with open(path, newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if _is_headline(row)]
    cells: dict[str, dict[str, str]] = {}
    labels: dict[str, str] = {}
    for row in rows:
        labels[row["run"]] = row["label"]
        spread = f" ± {100 * float(row['std']):.1f}" if row["std"] else ""
        cells.setdefault(row["run"], {})[row["metric"]] = f"{100 * float(row['mean']):.1f}{spread}"
    first = rows[0]
    table = Table(
        title=f"{first['experiment']}: {first['dataset']}, protocol {first['protocol']}; "
        f"percent, mean ± standard deviation over {first['n']} split x seed",
        title_justify="left",
    )
    table.add_column("run")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    for run, values in cells.items():
        table.add_row(escape(printable(labels[run])), *(values.get(metric, "") for metric in COLUMNS))
    console = Console(width=None if Console().is_terminal else 100)
    console.print(table)
    places = {"figures": figures, "tables": tables}
    made = [f"{kind}: {folder}/" for kind, folder in places.items() if Path(folder).is_dir()]
    console.print("   ".join(made), highlight=False)


def _is_headline(row: dict[str, str]) -> bool:
    if row["metric"] == "accuracy":
        return True
    return (
        row["metric"] in COLUMNS
        and row["score"] == "maximum_logit"
        and row["sampling"] == "full"
        and row["group"] == "all"
    )

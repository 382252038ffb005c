"""The results of single runs, gathered into the tidy tables that figures and tables are made from."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..core.errors import CheckpointError, DataError
from ..core.files import AGAIN, atomic_write, read_record, unreadable, write_json
from ..datasets.protocols import class_set_name
from ..evaluation.statistics import class_set_means, mean_std
from .summary import METRIC_KEYS, summarize
from .tidy import MAIN_METRICS, write_checksums
from .tidy_tables import TIDY_TABLES, TidyTable

# what batch normalization counts while it is trained, which is no parameter
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# history.csv has these columns also where no run has validation images, or none meets hard samples
ALWAYS = ("validation_accuracy", "hard_share")
CURVES = ("roc", "oscr")

Row = dict[str, Any]
# run, and the rows of every run of its split and seed -> what the run's rows lack, in words; empty where nothing
Lost = Callable[[str, Mapping[str, list[Row]]], str]


def curves_lost(run: str, of_unit: Mapping[str, list[Row]]) -> str:
    """Both curves end at x = 1."""
    last = {row.get("curve"): row.get("x") for row in of_unit[run]}
    open_ended = [name for name in CURVES if last.get(name) not in ("1.0", "1")]
    return f"the curve {open_ended[0]} does not reach x = 1" if open_ended else ""


def images_lost(run: str, of_unit: Mapping[str, list[Row]]) -> str:
    """All runs of a split and seed tell of the same images."""
    found, most = len(of_unit[run]), max(map(len, of_unit.values()))
    return f"it has {found} images, another run has {most}" if found < most else ""


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file.

    Raises:
        DataError: the file is missing or empty.
    """
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            text = stream.read()
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except OSError as error:
        raise DataError(unreadable(path, error)) from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is no table ({error}); {AGAIN}") from error
    if not rows:
        raise DataError(f"{path} has no rows; {AGAIN}")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise DataError(
                f"{path} has {'more' if None in row else 'fewer'} cells in row {number} than columns; {AGAIN}"
            )
    if not text.endswith("\n"):
        raise DataError(f"{path} is cut off: its last line has no end; {AGAIN}")
    return rows


def read_metrics(path: Path) -> dict[str, Any]:
    """The metrics of a run, as `evaluate` writes them: `headline` and `rows`.

    Raises:
        OpenSetError: the file is missing, damaged, or holds something else.
    """
    metrics = read_record(path, {"headline": dict, "rows": list})
    numbers = [*metrics["headline"].values()]
    for row in metrics["rows"]:
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in METRIC_KEYS):
            raise DataError(f"{path} has a row without {', '.join(METRIC_KEYS)}; {AGAIN}")
        numbers += [value for key, value in row.items() if key not in METRIC_KEYS]
    if not all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in numbers):
        raise DataError(f"{path} has a value that is no number; {AGAIN}")
    return metrics


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Writes rows as CSV; without `columns` those of all rows, in the order in which they appear."""
    rows = list(rows)
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as partial, open(partial, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _empty_if_nan(value) for name, value in row.items()} for row in rows)


def _empty_if_nan(value: Any) -> Any:
    return "" if isinstance(value, float) and value != value else value


def count_parameters(weights: Path) -> int:
    """Number of parameters in a file of weights, from its header alone.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with safe_open(weights, framework="numpy") as stream:
            names = [name for name in stream.keys() if not name.endswith(STATISTICS)]  # noqa: SIM118
            return sum(math.prod(stream.get_slice(name).get_shape()) for name in names)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {weights} cannot be read ({error}); {AGAIN}") from error


class Collector:
    """Walks the runs of an experiment.

    Args:
        results: folder of the experiment.
        layout: tables (to gather), splits, seeds, runs (name -> label and family), networks and epochs (by run),
            baseline, experiment, dataset, protocol (`Experiment.layout`).
    """

    def __init__(self, results: Path, layout: Mapping[str, Any]):
        self.results, self.layout = results, layout

    @cached_property
    def class_sets(self) -> dict[int, str]:
        """Split -> the name of its class set, from the classes that the split's description lists.

        Raises:
            OpenSetError: a description is missing or damaged.
        """
        names = {}
        for split, _, folder in self.units():
            found = read_record(folder / "split.json", {"dataset": str, "known_ids": list, "unknown_ids": dict})
            names[split] = class_set_name(found["dataset"], found["known_ids"], found["unknown_ids"])
        return names

    def units(self) -> Iterator[tuple[int, int, Path]]:
        """(split, seed, folder) of every split and seed."""
        for split, seed in itertools.product(self.layout["splits"], self.layout["seeds"]):
            yield split, seed, self.results / f"split{split}" / f"seed{seed}"

    def run_rows(self, file: str, lost: Lost) -> Iterator[Row]:
        """The rows of one CSV file of every run, each preceded by what identifies the run.

        Raises:
            DataError: a file is missing, damaged or lacks rows: one that ends too early, at a line's end, looks whole.
        """
        for split, seed, folder in self.units():
            of_unit = {run: read_rows(folder / run / file) for run in self.layout["runs"]}
            for run, rows in of_unit.items():
                if words := lost(run, of_unit):
                    raise DataError(f"{folder / run / file} has lost its end: {words}; {AGAIN}")
                for row in rows:
                    yield {**self.identity(run), "split": split, "seed": seed, **row}

    def history(self) -> Iterator[Row]:
        """history.csv: every epoch of every run."""
        return (dict.fromkeys(ALWAYS, "") | row for row in self.run_rows("history.csv", self._epochs_lost))

    def _epochs_lost(self, run: str, of_unit: Mapping[str, list[Row]]) -> str:
        epochs = self.layout["epochs"][run]
        found = [row.get("epoch") for row in of_unit[run]]
        return "" if found == [str(epoch + 1) for epoch in range(epochs)] else f"its rows are not epochs 1 to {epochs}"

    def curves(self) -> Iterator[Row]:
        """curves.csv: both curves of every run."""
        return self.run_rows("curves.csv", curves_lost)

    def activations(self) -> Iterator[Row]:
        """activations.csv: a sample of the test images of every run."""
        return self.run_rows("activations.csv", images_lost)

    def identity(self, run: str) -> Row:
        return {"run": run, **self.layout["runs"][run]}

    def metrics(self) -> list[Row]:
        """runs.csv: every metric of every run."""
        about = {key: self.layout[key] for key in ("experiment", "dataset", "protocol")}
        rows = []
        for split, seed, folder in self.units():
            for run in self.layout["runs"]:
                for row in read_metrics(folder / run / "metrics.json")["rows"]:
                    # JSON has no NaN: an interval that a single image cannot give is null there
                    values = {key: float("nan") if value is None else value for key, value in row.items()}
                    unit = {"class_set": self.class_sets[split], "split": split, "seed": seed}
                    rows.append({**about, **unit, **self.identity(run), **values})
        return rows

    def rows_of(self, table: TidyTable) -> Iterator[Row]:
        """The rows of a table's files, each preceded by its run, if it is of one, and its split and seed."""
        runs = self.layout["embedded"] if table.compared else self.layout["runs"]
        for split, seed, folder in itertools.islice(self.units(), 1 if table.first else None):
            for run in runs if "{run}" in table.source else [""]:
                for row in read_rows(folder / table.source.format(run=run)):
                    of_run = run or row.get("run", "")
                    yield {**(self.identity(of_run) if of_run else {}), "split": split, "seed": seed, **row}

    def networks(self) -> Iterator[Row]:
        """networks.csv: the network of each run, and how many parameters its weights of the first split and seed hold.

        Raises:
            CheckpointError: a file of weights is missing or damaged.
        """
        _, _, folder = next(self.units())
        for run in self.layout["runs"]:
            parameters = count_parameters(folder / run / "weights.safetensors")
            yield {**self.identity(run), "network": self.layout["networks"][run], "parameters": parameters}

    def headline(self) -> dict[str, Any]:
        """headline.json: the mean over class sets of the few numbers that stand for each run."""
        runs = {}
        for run in self.layout["runs"]:
            of_run = {
                (self.class_sets[split], split, seed): read_metrics(folder / run / "metrics.json")["headline"]
                for split, seed, folder in self.units()
            }
            names = next(iter(of_run.values()))
            values = {name: {unit: one[name] for unit, one in of_run.items()} for name in names}
            runs[run] = {name: mean_std(class_set_means(one).values()).mean for name, one in values.items()}
        return runs

    def write(self, folder: Path, metrics_folder: Path) -> None:
        """Writes the tidy tables into `folder`, and the main numbers of each run into a file of its own."""
        metrics = self.metrics()
        # tables that are computed, or whose files are checked for a lost end
        own: dict[str, Callable[[], Iterable[Row]]] = {
            "runs": lambda: metrics,
            "summary": lambda: summarize(metrics, self.layout["baseline"]),
            "history": self.history,
            "curves": self.curves,
            "activations": self.activations,
            "networks": self.networks,
        }
        for name in self.layout["tables"]:
            write_rows(folder / f"{name}.csv", own[name]() if name in own else self.rows_of(TIDY_TABLES[name]))
        headline = self.headline()
        write_json(folder / "headline.json", headline)
        for run, values in headline.items():
            write_json(metrics_folder / f"{run}.json", {name: values[name] for name in MAIN_METRICS if name in values})
        write_checksums(folder, [*(f"{name}.csv" for name in self.layout["tables"]), "headline.json"])

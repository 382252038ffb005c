"""Predictions as rows: a table for people; CSV, JSON and JSON lines for machines. All are written as they come."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..core.text import printable, spreadsheet_cell
from .images import Failure
from .model import Prediction

Write = Callable[[str], object]

LONGEST_NAME = 24  # characters of a class name in the table


class Writer(Protocol):
    """Where predictions go, one by one, then `close`."""

    def prediction(self, prediction: Prediction) -> None: ...

    def failure(self, failure: Failure) -> None: ...

    def close(self) -> None: ...


class Table:
    """Aligned columns; failures are left to standard error."""

    def __init__(self, write: Write, classes: Sequence[str], top: int):
        self._write = write
        self._width = min(LONGEST_NAME, max(len("unknown"), *(len(printable(name)) for name in classes)))
        self._write(f"{'verdict':<{self._width}}  {'score':>9}  most probable class -> image\n")

    def prediction(self, prediction: Prediction) -> None:
        likely = ", ".join(f"{printable(name)} {100 * share:.0f} %" for name, share in prediction.top)
        verdict = _cut(printable(prediction.verdict), self._width)
        name = printable(prediction.name)
        self._write(f"{verdict:<{self._width}}  {prediction.score:>9.4g}  {likely} -> {name}\n")

    def failure(self, failure: Failure) -> None:
        pass

    def close(self) -> None:
        pass


# earlier names of the column `verdict`, kept for one release
EARLIER = ("answer",)


class Csv:
    """A header and one row per image, with columns for the `top` classes."""

    def __init__(self, write: Write, classes: Sequence[str], top: int):
        self._write, self._top = write, min(top, len(classes))
        self._rows = io.StringIO()
        self._writer = csv.writer(self._rows, lineterminator="\n")
        likely = [f"{what}_{place}" for place in range(1, self._top + 1) for what in ("class", "probability")]
        self._row(["file", "verdict", "predicted", "rejected", "score", "threshold", "error", *likely, *EARLIER])

    def prediction(self, prediction: Prediction) -> None:
        likely = [cell for name, share in prediction.top for cell in (_cell(name), f"{share:.6f}")]
        verdict, predicted = _cell(prediction.verdict), _cell(prediction.predicted)
        rejected = str(prediction.rejected).lower()
        numbers = [repr(prediction.score), repr(prediction.threshold)]
        self._row([_cell(prediction.name), verdict, predicted, rejected, *numbers, "", *likely, verdict])

    def failure(self, failure: Failure) -> None:
        self._row(
            [_cell(failure.name), "", "", "", "", "", _cell(failure.message), *[""] * (2 * self._top + len(EARLIER))]
        )

    def _row(self, cells: Sequence[str]) -> None:
        self._writer.writerow(cells)
        self._write(self._rows.getvalue())
        self._rows.seek(0)
        self._rows.truncate()

    def close(self) -> None:
        pass


class JsonLines:
    """One object a line."""

    def __init__(self, write: Write, classes: Sequence[str], top: int):
        self._write = write

    def prediction(self, prediction: Prediction) -> None:
        self._write(json.dumps(as_plain(prediction)) + "\n")

    def failure(self, failure: Failure) -> None:
        self._write(json.dumps({"file": failure.name, "error": printable(failure.message)}) + "\n")

    def close(self) -> None:
        pass


class Json:
    """One list of objects."""

    def __init__(self, write: Write, classes: Sequence[str], top: int):
        self._write, self._before = write, "[\n  "
        self._lines = JsonLines(self._object, classes, top)

    def prediction(self, prediction: Prediction) -> None:
        self._lines.prediction(prediction)

    def failure(self, failure: Failure) -> None:
        self._lines.failure(failure)

    def _object(self, line: str) -> None:
        self._write(self._before + line.rstrip("\n"))
        self._before = ",\n  "

    def close(self) -> None:
        self._write("\n]\n" if self._before.startswith(",") else "[]\n")


FORMATS: dict[str, Callable[[Write, Sequence[str], int], Writer]] = {
    "table": Table,
    "csv": Csv,
    "json": Json,
    "jsonl": JsonLines,
}


def as_plain(prediction: Prediction) -> dict[str, Any]:
    """A prediction as plain data; `rejected` tells a class that is called `unknown` from the verdict."""
    return {
        "file": prediction.name,
        "verdict": prediction.verdict,
        **dict.fromkeys(EARLIER, prediction.verdict),
        "predicted": prediction.predicted,
        "rejected": prediction.rejected,
        "score": prediction.score,
        "threshold": prediction.threshold,
        "top": [{"class": name, "probability": share} for name, share in prediction.top],
    }


def _cell(text: str) -> str:
    return spreadsheet_cell(printable(text))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"

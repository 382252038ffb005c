"""Numbers from the literature, each with its source and how sure it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

from ...core.errors import DataError, nearest
from ...datasets import catalog
from ..tidy import decimal
from .common import DASH, METRIC_TITLES
from .formats import Block, Cell

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = lazy.load("pandas")

PUBLISHED_COLUMNS = ("dataset", "method", "backbone", "protocol", "metric", "value", "source", "confidence")
# CIFAR+10 and CIFAR+50 are CIFAR-10 with unknowns of CIFAR-100: the literature names them by their protocol
BENCHMARK_OF_PROTOCOL = {"cifar_plus_10": "cifar+10", "cifar_plus_50": "cifar+50"}
TITLES = {"cifar+10": "CIFAR+10", "cifar+50": "CIFAR+50"}
# confidence of a published number: the mark in the table, and what it means
CONFIDENCE = {
    "primary": ("", "taken from the authors' own paper or repository"),
    "secondary": ("\N{DAGGER}", "copied from another publication, not checked against the original"),
    "stale": ("\N{DOUBLE DAGGER}", "known to be outdated: later reruns give other values"),
}


def read_published(path: str | os.PathLike) -> pd.DataFrame:
    """Published numbers: columns as in `PUBLISHED_COLUMNS`, values in percent, an empty value = not known.

    Raises:
        DataError: the file is missing or damaged, or a row has a value without source or with an unknown confidence.
    """
    remedy = "mend the file by hand: it is part of the repository, not made by the workflow"
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise DataError(
            f"the published numbers are missing at {path}; restore that file from the repository"
        ) from error
    except (OSError, ValueError) as error:  # pandas' own parser errors are ValueErrors
        raise DataError(f"cannot read the published numbers at {path} ({error}); {remedy}") from error
    missing = [column for column in PUBLISHED_COLUMNS if column not in table.columns]
    if missing:
        raise DataError(f"the published numbers at {path} lack the column {', '.join(missing)}; {remedy}")
    for line, row in enumerate(table.to_dict("records"), start=2):
        where = f"the published numbers at {path}, line {line}:"
        if row["confidence"] not in CONFIDENCE:
            raise DataError(f"{where} confidence {row['confidence']!r}; {nearest(row['confidence'], CONFIDENCE)}")
        if row["metric"] not in METRIC_TITLES:
            raise DataError(f"{where} metric {row['metric']!r}; {nearest(row['metric'], METRIC_TITLES)}")
        if not row["source"].strip():
            raise DataError(f"{where} no source; a published number without a source cannot be printed")
        if row["value"].strip() and not _is_percent(row["value"]):
            raise DataError(f"{where} value {row['value']!r} is not a number from 0 to 100; {remedy}")
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    return table


def _is_percent(text: str) -> bool:
    try:
        return 0 <= float(text) <= 100
    except ValueError:
        return False


def benchmark_name(protocol: str, dataset: str) -> str:
    """What the literature calls a benchmark; that of the original images where a dataset has them in another form."""
    known = catalog.datasets().get(dataset)
    original = known.same_images_as if known and known.same_images_as else dataset
    return BENCHMARK_OF_PROTOCOL.get(protocol, original)


def benchmark_title(name: str) -> str:
    """A benchmark's name as tables print it."""
    known = catalog.datasets().get(name)
    return known.title if known else TITLES.get(name, name)


def published_block(rows: pd.DataFrame, titles: dict[str, str], heading: str) -> tuple[Block, pd.DataFrame]:
    """Published numbers with what a reader needs to judge each of them.

    Args:
        rows: of `read_published`.
        titles: dataset in `rows` -> what to print for it; with one dataset there is no column for it.
    """
    header = ["Method", "Backbone", "Protocol", "Metric", "Source", "Confidence", "Value"]
    if len(titles) > 1:
        header.insert(0, "Dataset")
    body, marks = [], {}
    for row in rows.to_dict("records"):
        mark, meaning = CONFIDENCE[row["confidence"]]
        if mark:
            marks[mark] = f"{mark} {row['confidence']}: {meaning}."
        value = DASH if np.isnan(row["value"]) else f"{decimal(row['value'])}{mark}"
        texts = [row["method"], row["backbone"], row["protocol"], METRIC_TITLES[row["metric"]]]
        texts = [titles[row["dataset"]], *texts] if len(titles) > 1 else texts
        body.append([Cell(text) for text in (*texts, row["source"], row["confidence"], value)])
    data = rows.rename(columns={"method": "label", "value": "mean_percent", "dataset": "published_dataset"})
    data = data[
        ["label", "metric", "mean_percent", "published_dataset", "backbone", "protocol", "source", "confidence"]
    ]
    notes = [
        "Published numbers are printed as their sources give them, in percent; they compare only within one protocol "
        f"and backbone. {DASH}: no value is recorded.",
        *marks.values(),
    ]
    block = Block(header, body, text_columns=len(header) - 1, heading=heading, note=" ".join(notes))
    return block, data.assign(block="published")

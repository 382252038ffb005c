"""Anybody's logits or scores, from an `.npz` or a `.csv` file, as outputs that can be evaluated.

`.npz`: `labels [n]` (class ids, -1 = unknown) and `logits [n, classes]` or `scores [n]`; optional `features [n, d]`,
`predicted [n]` (class ids, for scores without logits), `group [n]` (names of groups of unknowns), `classes [classes]`
(names) and `files [n]`.

`.csv`: a row an image with the column `label` (a class's name or id; `unknown` or -1) and columns `logit_<class>`, one
a class, or a column `score`; optional `feature_<k>`, `predicted`, `group` and `file`.

Scores follow one convention: larger = more known.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError
from ..core.names import UNKNOWN_LABEL
from ..evaluation.evaluate import ALL, KNOWN
from .description import UNKNOWN


@dataclass(frozen=True)
class OwnOutputs:
    """Outputs of some classifier on `n` images.

    Attributes:
        classes: names of the known classes, in label order.
        labels: int64 `[n]`, -1 = unknown.
        predicted: int64 `[n]`; None where neither logits nor predictions are given.
        logits: `[n, classes]`, or None.
        features: `[n, d]`, or None.
        scores: float64 `[n]`, or None where scores come from the logits.
        group: names `[n]`, `known` for the knowns.
        files: names of the images, or None.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    predicted: np.ndarray | None
    logits: np.ndarray | None
    features: np.ndarray | None
    scores: np.ndarray | None
    group: np.ndarray
    files: tuple[str, ...] | None


def read_outputs(path: str | os.PathLike) -> OwnOutputs:
    """Reads and checks the file.

    Raises:
        DataError: it is missing, damaged, or lacks what an evaluation needs; numbers are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file; give an .npz or .csv file with labels and logits or scores")
    fields = _from_csv(path) if path.suffix.lower() == ".csv" else _from_npz(path)
    return _checked(path, fields)


def _from_npz(path: Path) -> dict[str, Any]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds one array without a name; save it with numpy.savez and names")
        with archive:
            names = {"labels", "logits", "scores", "features", "predicted", "group", "group_names", "classes", "files"}
            fields = {name: archive[name] for name in archive.files if name in names}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many kinds about damaged or pickled arrays
        raise DataError(
            f"{path} cannot be read as an .npz file of plain arrays ({error}); save it again with numpy.savez"
        ) from error
    # the workflow's own outputs have codes of groups, with their names beside them
    if "group_names" in fields and "group" in fields and np.issubdtype(fields["group"].dtype, np.integer):
        names, codes = fields.pop("group_names"), fields["group"]
        if codes.size and codes.min() >= 0 and codes.max() < len(names):
            fields["group"] = names[codes]
    return fields


def _from_csv(path: Path) -> dict[str, Any]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream)
            header = next(rows, [])
            table = [row for row in rows if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file in UTF-8 ({error}); save it again") from error
    uneven = next((number for number, row in enumerate(table, 2) if len(row) != len(header)), None)
    if uneven is not None:
        raise DataError(f"{path}: row {uneven} has a different number of cells than the header; save the file again")
    if len(set(header)) != len(header):
        raise DataError(f"{path} has two columns of the same name; rename one")
    columns = {name: [row[place] for row in table] for place, name in enumerate(header)}
    if "label" not in columns:
        raise DataError(f"{path} has no column 'label'; it has {', '.join(header[:8]) or 'none'}")
    fields: dict[str, Any] = {}
    logits = [name for name in header if name.startswith("logit_")]
    features = [name for name in header if name.startswith("feature_")]
    classes = [name.removeprefix("logit_") for name in logits]
    if logits:
        fields["logits"] = np.column_stack([_numbers(path, name, columns[name]) for name in logits])
    if features:
        fields["features"] = np.column_stack([_numbers(path, name, columns[name]) for name in features])
    if "score" in columns:
        fields["scores"] = _numbers(path, "score", columns["score"])
    named = [text for name in ("label", "predicted") for text in columns.get(name, [])]
    if not classes:
        known = set(named) - {UNKNOWN, str(UNKNOWN_LABEL), ""}
        if all(map(_is_id, known)):
            for name in columns.keys() & {"label", "predicted"}:  # 07 is 7
                columns[name] = [str(int(text)) if _is_id(text) else text for text in columns[name]]
            classes = [str(number) for number in sorted({int(text) for text in known}) if number >= 0]
        else:
            classes = sorted(known)
    fields["classes"] = np.array(classes, dtype=np.str_)
    codes = {name: code for code, name in enumerate(classes)}
    for name, field in (("label", "labels"), ("predicted", "predicted")):
        if name in columns:
            fields[field] = np.array([_code(path, text, codes) for text in columns[name]], dtype=np.int64)
    if "group" in columns:
        fields["group"] = np.array(columns["group"], dtype=np.str_)
    if "file" in columns:
        fields["files"] = np.array(columns["file"], dtype=np.str_)
    return fields


def _is_id(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _code(path: Path, text: str, codes: dict[str, int]) -> int:
    """A class's id from its name, or from its number where no class has such a name."""
    if text in codes:
        return codes[text]
    if text in (UNKNOWN, str(UNKNOWN_LABEL), ""):
        return UNKNOWN_LABEL
    if _is_id(text) and 0 <= int(text) < len(codes):
        return int(text)
    raise DataError(f"{path}: {text!r} is not a class ({', '.join(list(codes)[:8])}); unknowns are {UNKNOWN!r} or -1")


def _numbers(path: Path, name: str, texts: Sequence[str]) -> np.ndarray:
    values = np.empty(len(texts))
    for number, text in enumerate(texts):
        try:
            values[number] = float(text)
        except ValueError:
            raise DataError(
                f"{path}: column {name!r}, row {number + 2}: {text!r} is not a number; correct it"
            ) from None
    return values


def _checked(path: Path, fields: dict[str, Any]) -> OwnOutputs:
    labels, logits, scores = fields.get("labels"), fields.get("logits"), fields.get("scores")
    if labels is None:
        raise DataError(f"{path} has no array 'labels' (class ids, -1 = unknown); add it")
    if logits is None and scores is None:
        raise DataError(f"{path} has neither logits nor scores; add one of them")
    dimensions = {"labels": 1, "logits": 2, "features": 2, "scores": 1, "predicted": 1, "group": 1, "files": 1}
    for name, wanted in dimensions.items():
        array = fields.get(name)
        if array is not None and (array.ndim != wanted or len(array) != len(labels)):
            raise DataError(
                f"{path}: {name} has shape {list(array.shape)}, and labels {list(labels.shape)}; one row per image is "
                "needed"
            )
    for name in ("logits", "features", "scores"):
        array = fields.get(name)
        if array is None:
            continue
        if not np.issubdtype(array.dtype, np.number):
            raise DataError(f"{path}: {name} has dtype {array.dtype}; numbers are needed")
        finite = np.isfinite(array) if array.ndim == 1 else np.isfinite(array).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{path}: {name} of {np.count_nonzero(~finite)} of {len(array)} images are NaN or infinite (the first "
                f"is image {int(np.argmin(finite))}); the model that made them has probably diverged"
            )
    for name in ("labels", "predicted"):
        if name in fields and not np.issubdtype(fields[name].dtype, np.integer):
            raise DataError(f"{path}: {name} has dtype {fields[name].dtype}; give class ids, with -1 for unknown")
    known = labels >= 0
    if labels.size and labels.min() < UNKNOWN_LABEL:
        raise DataError(f"{path}: labels go down to {labels.min()}; unknowns are -1")
    if not known.any() or known.all():
        which = "unknown" if known.any() else "known"
        raise DataError(f"{path} has no {which} image; knowns and unknowns (label -1) are both needed")
    predicted = fields.get("predicted")
    if logits is not None:
        classes = logits.shape[1]
        predicted = logits.argmax(axis=1)
    elif fields.get("classes") is None and (predicted is None or predicted.min() >= 0):
        # ids of a large catalog: only the classes that are there count
        ids = np.unique(labels[known] if predicted is None else np.concatenate([labels[known], predicted]))
        fields["classes"], classes = ids.astype(str), len(ids)
        labels = np.where(known, np.searchsorted(ids, labels), UNKNOWN_LABEL)
        predicted = None if predicted is None else np.searchsorted(ids, predicted)
    else:
        classes = 1 + max(int(labels.max()), -1 if predicted is None else int(predicted.max()))
    if labels.max() >= classes:
        raise DataError(
            f"{path}: labels go up to {labels.max()}, and there are {classes} logits; labels and logits do not match"
        )
    if predicted is not None and predicted.size and predicted.min() < 0:
        raise DataError(f"{path}: a predicted class is {predicted.min()}; give the most probable known class always")
    names = fields.get("classes")
    names = tuple(map(str, names)) if names is not None else tuple(map(str, range(classes)))
    if len(names) < classes or len(set(names)) != len(names):
        raise DataError(f"{path}: {len(names)} names for {classes} classes; each needs one of its own")
    group = np.full(len(labels), UNKNOWN, dtype=object)
    if "group" in fields:
        group = np.array([str(name) for name in fields["group"]], dtype=object)
        reserved = sorted({name for name in group[~known] if name in (KNOWN, ALL, "")})
        if reserved:
            raise DataError(f"{path}: a group of unknowns is called {reserved[0]!r}; give it another name")
    group[known] = KNOWN
    return OwnOutputs(
        classes=names,
        labels=labels.astype(np.int64),
        predicted=None if predicted is None else predicted.astype(np.int64),
        logits=None if logits is None else logits.astype(np.float64),
        features=None if fields.get("features") is None else fields["features"].astype(np.float64),
        scores=None if scores is None else scores.astype(np.float64),
        group=group,
        files=None if fields.get("files") is None else tuple(map(str, fields["files"])),
    )

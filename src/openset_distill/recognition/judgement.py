"""How good answers are: metrics with intervals, the operating point, confusions, mistakes and curves of any outputs."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import DataError, SettingsError
from ..core.files import atomic_write
from ..core.text import printable, spreadsheet_cell
from ..evaluation import metrics
from ..evaluation.evaluate import ALL, KNOWN, evaluate
from ..evaluation.scores import SCORES
from ..evaluation.scores import score as score_images
from ..evaluation.thresholds import OperatingPoint, exact_interval, rate
from .description import UNKNOWN
from .own_outputs import OwnOutputs

NEED_FEATURES = ("feature_norm", "gradnorm")
OWN_SCORE = "score"  # what the scores of a file are called
SHOWN = ("auroc", "oscr", "fpr95", "aupr_known", "aupr_unknown")
MISTAKES = 10
RESAMPLES = 1000
SEED = 0


@dataclasses.dataclass(frozen=True)
class Judgement:
    """All that is said about some outputs.

    Attributes:
        rows: of `evaluation.evaluate`; metrics that need a predicted class are left out where there is none, and only
            accuracy is left where there are no unknowns.
        scores: name -> float64 `[n]`.
        score: the one that decides.
        point: the operating point that was applied, or None.
    """

    outputs: OwnOutputs
    rows: tuple[dict[str, Any], ...]
    scores: dict[str, np.ndarray]
    score: str
    point: OperatingPoint | None

    @property
    def known(self) -> np.ndarray:
        """bool `[n]`"""
        return self.outputs.labels >= 0

    @property
    def correct(self) -> np.ndarray | None:
        """bool `[n]`: known images whose predicted class is right."""
        return None if self.outputs.predicted is None else self.outputs.predicted == self.outputs.labels

    def at_operating_point(self) -> dict[str, Any]:
        """Rates on these images, with exact intervals; empty without an operating point.

        `acceptance` of the knowns, `correct_and_accepted` of the knowns, `false_acceptance` of the unknowns.
        """
        if self.point is None:
            return {}
        values, known, threshold = self.scores[self.score], self.known, self.point.threshold
        rates: dict[str, Any] = {
            "threshold": threshold,
            "acceptance": dataclasses.asdict(rate(values[known], threshold)),
        }
        if self.correct is not None:
            hits, n = int(np.count_nonzero(self.correct & (values >= threshold))), int(known.sum())
            low, high = exact_interval(hits, n)
            rates["correct_and_accepted"] = {"images": n, "accepted": hits, "rate": hits / n, "low": low, "high": high}
        if not known.all():
            rates["false_acceptance"] = dataclasses.asdict(rate(values[~known], threshold))
        return rates

    def confusion(self) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
        """Names of rows (true) and columns (predicted), and counts; the last of each is `unknown`.

        Without an operating point nothing is predicted as `unknown`.
        """
        predicted, classes = self._predicted(), len(self.outputs.classes)
        counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)
        np.add.at(counts, (self.outputs.labels, predicted), 1)  # -1 is the last
        names = (*self.outputs.classes, UNKNOWN)
        return names, names, counts

    def mistakes(self, most: int = MISTAKES) -> list[dict[str, Any]]:
        """Images that were accepted with a wrong answer, the most confident ones first."""
        values, predicted = self.scores[self.score], self._predicted()
        wrong = np.flatnonzero((predicted >= 0) & (predicted != self.outputs.labels))
        names = (*self.outputs.classes, UNKNOWN)
        files = self.outputs.files
        return [
            {
                "file": files[i] if files else f"image {i}",
                "true": names[self.outputs.labels[i]],
                "predicted": names[predicted[i]],
                "score": float(values[i]),
            }
            for i in wrong[np.argsort(-values[wrong], kind="stable")][:most]
        ]

    def _predicted(self) -> np.ndarray:
        """Class ids `[n]`, -1 = unknown."""
        if self.outputs.predicted is None:
            raise DataError("there are no predicted classes; give logits, or a column or array 'predicted'")
        if self.point is None:
            return self.outputs.predicted
        return np.where(self.scores[self.score] >= self.point.threshold, self.outputs.predicted, -1)

    def plain(self) -> dict[str, Any]:
        """Everything as plain data, without NaN."""
        result: dict[str, Any] = {
            "score": self.score,
            "metrics": [
                {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
                for row in self.rows
            ],
            "operating_point": self.at_operating_point(),
        }
        if self.outputs.predicted is not None:
            true, predicted, counts = self.confusion()
            result["confusion"] = {"true": true, "predicted": predicted, "counts": counts.tolist()}
            result["most_confident_mistakes"] = self.mistakes()
        return result


def judge(
    outputs: OwnOutputs,
    *,
    scores: Sequence[str] | None = None,
    point: OperatingPoint | None = None,
    resamples: int = RESAMPLES,
) -> Judgement:
    """Evaluates any outputs.

    Args:
        scores: names from `evaluation.scores.SCORES`; by default all that the outputs suffice for. Outputs that have
            scores of their own are judged by these.
        point: an operating point of the first score.
        resamples: of the bootstrap behind the metrics' intervals.

    Raises:
        SettingsError: a score needs logits or features that are not there.
        DataError: the outputs cannot be evaluated.
    """
    if outputs.scores is not None:
        values = {OWN_SCORE: outputs.scores}
        if scores:
            raise SettingsError("the outputs have scores of their own; leave out --score, or give logits alone")
    else:
        usable = [name for name in SCORES if outputs.features is not None or name not in NEED_FEATURES]
        for name in scores or ():
            if name not in usable:
                raise SettingsError(f"score {name!r} cannot be computed from these outputs; choose {', '.join(usable)}")
        features = np.zeros((len(outputs.labels), 1)) if outputs.features is None else outputs.features
        if outputs.logits is None:
            raise SettingsError("the outputs have neither logits nor scores; give one of them")
        values = {name: score_images(name, features, outputs.logits) for name in scores or usable}
    rows = _rows(outputs, values, resamples)
    return Judgement(outputs, rows, values, next(iter(values)), point)


def _rows(outputs: OwnOutputs, values: Mapping[str, np.ndarray], resamples: int) -> tuple[dict[str, Any], ...]:
    known = outputs.labels >= 0
    if not known.any():
        raise DataError("there are no images of known classes; give some")
    if known.all():
        hits, n = int(np.count_nonzero(outputs.predicted == outputs.labels)), len(known)
        low, high = exact_interval(hits, n)
        row = {"score": "", "group": KNOWN, "sampling": "full", "metric": "accuracy", "value": hits / n}
        return ({**row, "low": low, "high": high, "n_known": n, "n_unknown": 0},)
    names = [KNOWN, *sorted(set(outputs.group[~known]))]
    code = {name: number for number, name in enumerate(names)}
    # the metrics ask the logits only for the largest: one for the predicted class says as much
    logits = np.zeros((len(known), max(2, len(outputs.classes))))
    if outputs.predicted is not None:
        logits[np.arange(len(known)), outputs.predicted] = 1
    rows = evaluate(
        {
            "features": np.zeros((len(known), 1)),
            "logits": logits,
            "labels": outputs.labels,
            "group": np.array([code[name] for name in outputs.group]),
            "group_names": np.array(names),
        },
        scores=(),
        detected=values,
        bootstrap=resamples,
        seed=SEED,
    )
    classless = ("accuracy", "oscr", "openauc")
    return tuple(row for row in rows if outputs.predicted is not None or row["metric"] not in classless)


# ---------------------------------------------------------------------------------------------------------- text


def as_text(judgement: Judgement) -> str:
    """One screen: metrics of every score, rates at the operating point, confusions and mistakes."""
    lines = []
    by_score: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in judgement.rows:
        if row["metric"] == "accuracy":
            n = f"{row['n_known']} known images"
            lines.append(f"closed-set accuracy {_percent(row)} on {n}")
        elif row["group"] == ALL:
            by_score.setdefault(row["score"], {})[row["metric"]] = row
    if by_score:
        shown = [name for name in SHOWN if any(name in row for row in by_score.values())]
        width = max(len("score"), *(len(name) for name in by_score))
        lines += ["", f"{'score':<{width}}  " + "  ".join(f"{name:<20}" for name in shown)]
        for name, of_score in by_score.items():
            lines.append(f"{name:<{width}}  " + "  ".join(f"{_percent(of_score[metric]):<20}" for metric in shown))
        lines.append("per cent (95 % interval of other test images, from the bootstrap)")
        groups = [row for row in judgement.rows if row["metric"] == "auroc" and row["group"] != ALL]
        lines += [
            f"auroc against {printable(row['group'])}: {_percent(row)} ({row['score']}, {row['n_unknown']} images)"
            for row in groups
            if row["score"] == judgement.score
        ]
    rates = judgement.at_operating_point()
    if rates and judgement.point is not None:
        lines += ["", f"at threshold {rates['threshold']:.6g} of {judgement.score} ({judgement.point.name} wanted):"]
        words = {
            "acceptance": "knowns accepted",
            "correct_and_accepted": "knowns accepted with the right class",
            "false_acceptance": "unknowns accepted",
        }
        for key, text in words.items():
            if key in rates:
                lines.append(
                    f"  {text}: {_percent({**rates[key], 'value': rates[key]['rate']})}, n = {rates[key]['images']}"
                )
    if judgement.outputs.predicted is not None:
        lines += _confusions(judgement)
        wrong = judgement.mistakes()
        if wrong:
            lines += ["", "most confident mistakes:"]
            lines += [
                f"  {printable(one['file'])}: {printable(one['true'])} predicted as {printable(one['predicted'])}, "
                f"score {one['score']:.4g}"
                for one in wrong
            ]
    return "\n".join(lines).strip("\n") + "\n"


def _percent(row: Mapping[str, Any]) -> str:
    if row["low"] is None or math.isnan(row["low"]):
        return f"{100 * row['value']:.1f}"
    return f"{100 * row['value']:.1f} ({100 * row['low']:.1f}-{100 * row['high']:.1f})"


def _confusions(judgement: Judgement, most: int = 12) -> list[str]:
    """The whole table of a few classes, or the largest confusions of many."""
    true, predicted, counts = judgement.confusion()
    if len(true) <= most:
        shown = [_short(name) for name in predicted]
        width = max(8, *(len(name) for name in shown))
        lines = ["", "confusion (rows: true, columns: predicted):"]
        lines.append(" " * (width + 4) + " ".join(f"{name:>{width}}" for name in shown))
        return lines + [
            f"  {_short(name):<{width}}  " + " ".join(f"{count:>{width}}" for count in row)
            for name, row in zip(true, counts, strict=True)
            if row.any()
        ]
    off = counts.copy()
    np.fill_diagonal(off, 0)
    largest = np.argsort(-off, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(place, off.shape) for place in largest]
    return ["", "largest confusions:"] + [
        f"  {printable(true[i])} predicted as {printable(predicted[j])}: {off[i, j]}" for i, j in pairs if off[i, j]
    ]


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 14 else name[:13] + "…"


# ---------------------------------------------------------------------------------------------------------- files


def write_predictions(path: Path, judgement: Judgement, *, true: Sequence[str] | None = None) -> None:
    """`predictions.csv`: a row an image with file, true class, predicted class, score and whether it is rejected.

    Args:
        true: what each image shows, where more is known than the model's classes and `unknown`.

    Without an operating point `rejected` is empty: nothing can be rejected.
    """
    outputs, values = judgement.outputs, judgement.scores[judgement.score]
    names = (*outputs.classes, UNKNOWN)
    with atomic_write(path) as partial, open(partial, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file", "true", "known", "predicted", "score", "rejected"])
        for i, label in enumerate(outputs.labels):
            file = outputs.files[i] if outputs.files else str(i)
            predicted = "" if outputs.predicted is None else names[outputs.predicted[i]]
            shown = names[label] if true is None else true[i]
            known, rejected = str(bool(label >= 0)).lower(), ""
            if judgement.point is not None:
                rejected = str(not values[i] >= judgement.point.threshold).lower()
            cells = [spreadsheet_cell(printable(text)) for text in (file, shown, predicted)]
            writer.writerow([*cells[:2], known, cells[2], repr(float(values[i])), rejected])


def draw(folder: Path, judgement: Judgement) -> list[Path]:
    """`roc.png`, `oscr.png` (where there are predicted classes) and `scores.png` in a folder.

    Raises:
        DataError: there are no unknowns to compare with.
        OpenSetError: the folder cannot be written.
    """
    from ..report.figures import style

    known = judgement.known
    if known.all():
        raise DataError("curves need unknowns; give some with --unknown")

    @style.styled
    def figures() -> dict[str, Any]:
        drawn = {}
        drawn["roc.png"] = figure = style.new_figure(3.6, 3.4)
        axes = figure.add_subplot()
        for name, values in judgement.scores.items():
            x, y, _ = metrics.roc_curve(values[known], values[~known])
            axes.plot(x, y, label=f"{name}: {100 * metrics.auroc(values[known], values[~known]):.1f}")
        axes.plot([0, 1], [0, 1], color=style.SOFT, linewidth=0.7, linestyle=":")
        axes.set(xlabel="unknowns accepted", ylabel="knowns accepted", title="ROC, with AUROC in %")
        axes.legend(loc="lower right", fontsize=style.SMALL)
        if judgement.correct is not None:
            drawn["oscr.png"] = figure = style.new_figure(3.6, 3.4)
            axes = figure.add_subplot()
            correct = judgement.correct[known]
            for name, values in judgement.scores.items():
                x, y, _ = metrics.oscr_curve(values[known], values[~known], correct)
                area = metrics.oscr(values[known], values[~known], correct)
                axes.plot(x, y, label=f"{name}: {100 * area:.1f}")
            axes.set(xlabel="unknowns accepted", ylabel="knowns accepted with the right class")
            axes.set(title="OSCR curve, with its area in %", ylim=(0, 1.02))
            axes.legend(loc="lower right", fontsize=style.SMALL)
        drawn["scores.png"] = figure = style.new_figure(5.0, 3.0)
        axes = figure.add_subplot()
        values = judgement.scores[judgement.score]
        bins = np.histogram_bin_edges(values, bins=40).tolist()
        axes.hist(values[known], bins, density=True, alpha=0.6, color=style.KNOWN, label="known")
        axes.hist(
            values[~known], bins, density=True, histtype="step", hatch="//////", color=style.UNKNOWN, label="unknown"
        )
        if judgement.point is not None:
            axes.axvline(judgement.point.threshold, color=style.INK, linewidth=1, label="threshold")
        axes.set(xlabel=f"{judgement.score} (larger = more known)", ylabel="density")
        axes.legend(fontsize=style.SMALL)
        return drawn

    paths = []
    for name, figure in figures().items():
        with atomic_write(folder / name) as partial:
            figure.savefig(partial, format="png", dpi=style.DPI, metadata={"Software": None})
        paths.append(folder / name)
    return paths

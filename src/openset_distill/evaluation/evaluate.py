"""From the outputs of one run to rows of metrics.

Outputs are arrays over the test images of one run: `features [n, d]`, `logits [n, classes]`, `labels [n]` (-1 =
unknown), `group [n]` (0 = known, 1, 2, ... = groups of unknowns) and `group_names [groups]`, which begins with "known".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import DataError, SettingsError, nearest
from ..core.files import AGAIN, atomic_write, read_npz
from ..core.names import UNKNOWN_LABEL
from . import metrics, statistics
from .scores import score as score_images

ARRAYS = {"features": 2, "logits": 2, "labels": 1, "group": 1, "group_names": 1}
# of the validation images, beside those of the test images: what thresholds are chosen on
VALIDATION_ARRAYS = {"validation_features": 2, "validation_logits": 2, "validation_labels": 1}
# the SHA-256 of the file of weights that the outputs come from, beside the arrays; files of before have none
WEIGHTS = "weights_sha256"
SAMPLINGS = ("full", "balanced")
HEADLINE = ("accuracy", *metrics.METRICS)
KNOWN, ALL = "known", "all"


def save_outputs(
    path: str | os.PathLike,
    *,
    features: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray,
    group: np.ndarray,
    group_names: Sequence[str],
    validation: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    weights: str = "",
    closed: bool = False,
) -> None:
    """Writes the outputs of a run as an uncompressed `.npz`; the file appears whole or not at all.

    Args:
        features: `[n, d]`, stored as float32.
        logits: `[n, classes]`, stored as float32.
        labels: `[n]`, -1 = unknown, stored as int64.
        group: `[n]`, 0 = known, stored as int16.
        group_names: in code order, beginning with "known".
        validation: features `[m, d]`, logits `[m, classes]` and labels `[m]` of the validation images, if there are
            any, stored as `VALIDATION_ARRAYS`.
        weights: SHA-256 of the file of weights that they come from, stored as text where it is given.
        closed: whether images of known classes alone will do.

    Raises:
        DataError: the arrays do not fit together or are not finite; nothing is written.
        OpenSetError: the folder cannot be written.
    """
    outputs = {
        "features": np.asarray(features, dtype=np.float32),
        "logits": np.asarray(logits, dtype=np.float32),
        "labels": np.asarray(labels, dtype=np.int64),
        "group": np.asarray(group, dtype=np.int16),
        "group_names": np.asarray(group_names, dtype=np.str_),
    }
    check_outputs(outputs, f"outputs for {path}", closed=closed)
    if validation is not None:
        arrays = zip(VALIDATION_ARRAYS, validation, (np.float32, np.float32, np.int64), strict=True)
        outputs |= {name: np.asarray(array, dtype=dtype) for name, array, dtype in arrays}
    if weights:
        outputs[WEIGHTS] = np.array(weights)
    with atomic_write(path) as partial, open(partial, "wb") as stream:
        np.savez(stream, **outputs)


def check_weights(path: str | os.PathLike, weights: str, other: str | os.PathLike) -> None:
    """Whether the outputs at `path` come from the network whose file of weights has the SHA-256 `weights`.

    Outputs of earlier versions do not say where they come from; they are not checked.

    Args:
        other: the file that `weights` is known from, for the message.

    Raises:
        DataError: they come from another network, or the file is missing or damaged.
    """
    found = read_npz(path, "the outputs of a run", only=[WEIGHTS]).get(WEIGHTS)
    if found is not None and weights and str(found) != weights:
        raise DataError(
            f"{path} and {other} come from two networks (the SHA-256 of their weights differ); delete both, and the "
            "same command makes them again"
        )


def load_outputs(path: str | os.PathLike, *, closed: bool = False) -> dict[str, np.ndarray]:
    """Reads and checks the outputs of a run.

    Raises:
        DataError: the file is missing, cut off, not an `.npz`, holds other arrays, or they do not fit together.
    """
    outputs = read_arrays(path, ARRAYS, what="the outputs of a run")
    check_outputs(outputs, str(path), closed=closed)
    return outputs


def load_validation(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Features `[m, d]`, logits `[m, classes]` and labels `[m]` of a run's validation images.

    Returns:
        None where the run has no validation images, or is older than version 0.2, which began to store them.

    Raises:
        DataError: the file is missing or damaged.
    """
    arrays = read_npz(path, "the outputs of a run")
    if not set(VALIDATION_ARRAYS) <= arrays.keys():
        return None
    features, logits, labels = (arrays[name] for name in VALIDATION_ARRAYS)
    return features, logits, labels


def read_arrays(
    path: str | os.PathLike, names: Iterable[str], *, what: str, optional: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """The arrays `names` of an `.npz` file, and those of `optional` that it has; `what` it holds is for messages.

    Raises:
        DataError: the file is missing, cut off, not an `.npz`, or lacks an array.
    """
    arrays = read_npz(path, what)
    absent = [name for name in names if name not in arrays]
    if absent:
        raise DataError(f"{path} has no array {', '.join(map(repr, absent))}; {AGAIN}")
    return {name: arrays[name] for name in (*names, *optional) if name in arrays}


def check_outputs(outputs: Mapping[str, np.ndarray], where: str = "outputs", *, closed: bool = False) -> None:
    """Checks that the outputs of a run can be evaluated; with `closed` images of known classes alone will do.

    Raises:
        DataError: an array is absent, lengths or codes disagree, a value is not finite, or there is no known image
            or an unknown group without an image. The message begins with `where`.
    """
    absent = [name for name in ARRAYS if name not in outputs]
    if absent:
        raise DataError(f"{where}: no array {', '.join(map(repr, absent))}; {', '.join(ARRAYS)} are needed")
    for name, dimensions in ARRAYS.items():
        if outputs[name].ndim != dimensions:
            raise DataError(
                f"{where}: {name} has shape {list(outputs[name].shape)}, {dimensions} dimension(s) are needed; "
                "make the outputs again"
            )
    lengths = {name: len(outputs[name]) for name in ARRAYS if name != "group_names"}
    if len(set(lengths.values())) != 1:
        counts = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise DataError(f"{where}: the arrays differ in length ({counts}); make the outputs again")
    for name in ("features", "logits"):
        if outputs[name].dtype.kind != "f":
            raise DataError(f"{where}: {name} has dtype {outputs[name].dtype}, numbers are needed")
        wrong = int(np.count_nonzero(~np.isfinite(outputs[name]).all(axis=1)))
        if wrong:
            raise DataError(
                f"{where}: {name} of {wrong} of {lengths[name]} images are not finite; "
                "the model has probably diverged, train it again with a lower learning rate"
            )
    if outputs["group_names"].dtype.kind != "U":
        raise DataError(f"{where}: group_names has dtype {outputs['group_names'].dtype}, text is needed")
    labels, group, names = outputs["labels"], outputs["group"], outputs["group_names"].tolist()
    n_classes = outputs["logits"].shape[1]
    for name in ("labels", "group"):
        if not np.issubdtype(outputs[name].dtype, np.integer):
            raise DataError(f"{where}: {name} has dtype {outputs[name].dtype}, integers are needed")
    if names[:1] != [KNOWN] or ALL in names or len(set(names)) != len(names):
        raise DataError(
            f"{where}: group_names are {names}; they must begin with {KNOWN!r}, "
            f"be distinct and not use the reserved name {ALL!r}"
        )
    if labels.size and (labels.min() < UNKNOWN_LABEL or labels.max() >= n_classes):
        raise DataError(
            f"{where}: labels run from {labels.min()} to {labels.max()}, but with {n_classes} logits they must lie in "
            f"-1 .. {n_classes - 1}; the split and the model are of different experiments"
        )
    if not np.array_equal(labels == UNKNOWN_LABEL, group != 0):
        raise DataError(f"{where}: label -1 and a group above 0 must mark the same images; make the split again")
    sizes = np.bincount(group[group >= 0], minlength=len(names))
    if sizes.size > len(names) or group.min(initial=0) < 0:
        raise DataError(
            f"{where}: group codes run from {group.min()} to {group.max()}, "
            f"but {len(names)} groups are named; make the split again"
        )
    empty = [name for name, size in zip(names, sizes, strict=True) if size == 0]
    if empty or (len(names) < 2 and not closed):
        what = f"group {', '.join(map(repr, empty))} has no image" if empty else "there is no unknown group"
        raise DataError(f"{where}: {what}; knowns and unknowns are both needed, check the split's test images")


def evaluate(
    outputs: Mapping[str, np.ndarray],
    *,
    scores: Sequence[str] = ("maximum_logit",),
    detected: Mapping[str, np.ndarray] | None = None,
    sampling: Sequence[str] = ("full",),
    bootstrap: int = 1000,
    seed: int,
    closed: bool = False,
) -> list[dict[str, Any]]:
    """All metrics of one run, in long form.

    The predicted class is the largest logit (the first of equal ones), whatever the score. Metrics of the group "all"
    take all the unknowns together; where there are several groups of unknowns, each has its own rows as well.

    Sampling `full` takes every test image. `balanced` takes as many unknowns as there are knowns, drawn from the group:
    without replacement where the group has enough, with replacement where it has fewer (the paper's released code
    draws with replacement always). Draws depend on the seed and the group alone: all scores see the same images, and a
    row does not change when other scores or samplings are asked for. AUROC, FPR95 and OSCR estimate the same quantity
    under both; AUPR does not, because it depends on the share of unknowns. Intervals of repeated images are as wide as
    the distinct images warrant.

    Args:
        outputs: as the module says; checked by `check_outputs`.
        scores: names from `scores.SCORES`.
        detected: further scores of the same images by name, each `[n]` (`detectors.detect`).
        sampling: of `full` and `balanced`.
        bootstrap: resamples for the 95 % intervals; 0 leaves them NaN.
        seed: of the balanced draws and of the bootstrap.
        closed: whether images of known classes alone will do, which have an accuracy and nothing else.

    Returns:
        rows with the keys score, group, sampling, metric, value, low, high, n_known, n_unknown. Accuracy has one row,
        with score "", group "known", sampling "full" and no unknowns. An interval is NaN where a set has one image.

    Raises:
        DataError: the outputs cannot be evaluated.
        SettingsError: unknown score or sampling, or a negative number of resamples.
    """
    check_outputs(outputs, closed=closed)
    for name in sampling:
        if name not in SAMPLINGS:
            raise SettingsError(f"unknown sampling {name!r}; {nearest(name, SAMPLINGS)}")
    if bootstrap < 0:
        raise SettingsError(f"bootstrap is {bootstrap}; give a number of resamples, or 0 for no intervals")
    known, correct = _known(outputs)
    values = {name: score_images(name, outputs["features"], outputs["logits"]) for name in scores}
    values |= detected or {}
    n_known = correct.size

    resampled = statistics.bootstrap_accuracy(
        correct, resamples=bootstrap if n_known > 1 else 0, generator=np.random.default_rng([seed, 0])
    )
    rows = [_row("", KNOWN, "full", "accuracy", metrics.accuracy(correct), resampled, n_known=n_known, n_unknown=0)]
    for code, group_name, members in _unknown_groups(outputs):
        for name in sampling:
            # every draw has its own stream, named by what it is for
            stream = [seed, 1, code, SAMPLINGS.index(name)]
            chosen = members
            if name == "balanced":
                generator = np.random.default_rng([*stream, 0])
                chosen = generator.choice(members, size=n_known, replace=members.size < n_known)
            rankings = {score: metrics.Ranking(value[known], value[chosen], correct) for score, value in values.items()}
            resampled = _resampled(
                rankings,
                resamples=bootstrap if min(n_known, members.size) > 1 else 0,
                generator=np.random.default_rng([*stream, 1]),
                unknown_draws=_informative(members.size, chosen.size),
            )
            for score, ranking in rankings.items():
                for metric, value in metrics.compute(metrics.METRICS, ranking.weighted()).items():
                    rows.append(
                        _row(
                            score,
                            group_name,
                            name,
                            metric,
                            float(value[0]),
                            resampled[score][metric],
                            n_known=n_known,
                            n_unknown=chosen.size,
                        )
                    )
    return rows


def headline(rows: Sequence[Mapping[str, Any]], score: str = "maximum_logit") -> dict[str, float]:
    """The few numbers that stand for a run: accuracy, and every metric of `score` on all test images.

    Args:
        rows: of `evaluate`, with that score and the sampling `full`.

    Returns:
        accuracy, auroc, aupr_known, aupr_unknown, fpr95, oscr, openauc -> fraction.

    Raises:
        SettingsError: the rows lack one of them.
    """
    values = {
        row["metric"]: row["value"]
        for row in rows
        if row["sampling"] == "full" and (row["score"], row["group"]) in {("", KNOWN), (score, ALL)}
    }
    absent = [name for name in HEADLINE if name not in values]
    if absent:
        raise SettingsError(
            f"the rows have no {', '.join(absent)} of score {score!r} with sampling 'full' and group 'all'; "
            "add this score and sampling to the evaluation settings"
        )
    return {name: values[name] for name in HEADLINE}


def curves(
    outputs: Mapping[str, np.ndarray],
    score: str = "maximum_logit",
    points: int = 201,
    detected: Mapping[str, np.ndarray] | None = None,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ROC and OSCR curves of all the test images on a fixed grid, ready to be averaged over runs.

    Args:
        outputs: as the module says.
        score: name from `scores.SCORES`, or one of `detected`.
        detected: further scores of the same images by name, each `[n]` (`detectors.detect`).
        points: number of grid points, evenly spaced over the false positive rate 0 .. 1.

    Returns:
        "roc" and "oscr" -> (x, y), each float64 `[points]`; x is the fraction of unknowns accepted as known, y the
        true positive rate or the correct classification rate.

    Raises:
        DataError: the outputs cannot be evaluated.
        SettingsError: unknown score, or fewer than two points.
    """
    if points < 2:
        raise SettingsError(f"curves: {points} points; at least 2 are needed to span 0 to 1")
    check_outputs(outputs)
    known, correct = _known(outputs)
    detected = detected or {}
    values = detected[score] if score in detected else score_images(score, outputs["features"], outputs["logits"])
    known_scores, unknown_scores = values[known], values[~known]
    grid = np.linspace(0.0, 1.0, points)
    roc_x, roc_y, _ = metrics.roc_curve(known_scores, unknown_scores)
    oscr_x, oscr_y, _ = metrics.oscr_curve(known_scores, unknown_scores, correct)
    return {
        "roc": (grid, metrics.on_grid(roc_x, roc_y, grid)),
        "oscr": (grid, metrics.on_grid(oscr_x, oscr_y, grid)),
    }


def _known(outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Which images are known, bool `[n]`, and which of those are classified correctly, bool `[n_known]`."""
    known = outputs["group"] == 0
    return known, outputs["logits"][known].argmax(axis=1) == outputs["labels"][known]


def _unknown_groups(outputs: Mapping[str, np.ndarray]) -> list[tuple[int, str, np.ndarray]]:
    """(code, name, image indices) of all unknowns together (code 0), then of each group if there are several."""
    group, names = outputs["group"], outputs["group_names"].tolist()
    if len(names) == 1:
        return []
    groups = [(0, ALL, np.flatnonzero(group != 0))]
    if len(names) > 2:
        groups += [(code, names[code], np.flatnonzero(group == code)) for code in range(1, len(names))]
    return groups


def _informative(members: int, chosen: int) -> int:
    """How many independent images say as much as `chosen` images drawn from `members`.

    A mean over n draws with replacement from m images has the variance of the m images and that of the draw,
    s^2 / m + s^2 / n: as much as m * n / (m + n) independent images.
    """
    return chosen if chosen <= members else max(1, round(members * chosen / (members + chosen)))


def _resampled(
    rankings: Mapping[str, metrics.Ranking],
    *,
    resamples: int,
    generator: np.random.Generator,
    unknown_draws: int,
) -> dict[str, dict[str, np.ndarray]]:
    if not rankings:
        return {}
    return statistics.bootstrap(
        rankings, metrics.METRICS, resamples=resamples, generator=generator, unknown_draws=unknown_draws
    )


def _row(
    score: str,
    group: str,
    sampling: str,
    metric: str,
    value: float,
    resampled: np.ndarray,
    *,
    n_known: int,
    n_unknown: int,
) -> dict[str, Any]:
    low, high = statistics.percentile_interval(resampled)
    return {
        "score": score,
        "group": group,
        "sampling": sampling,
        "metric": metric,
        "value": value,
        "low": low,
        "high": high,
        "n_known": n_known,
        "n_unknown": n_unknown,
    }

"""Metrics of open-set recognition: pure functions of arrays.

Scores follow the convention of `scores`: larger = more known. A known image is a *positive*; an unknown image that is
accepted as known is a *false positive*. Every metric is a fraction in [0, 1].

`Ranking` sorts the scores of one evaluation once. After that every metric follows in linear time, for the images as
they are or for any number of weightings of them at once, which is what a bootstrap needs. The functions `auroc`,
`oscr`, ... are the same code with every weight 1, so a value and its interval cannot disagree in their definition.
Ties between scores are handled exactly in all of them; no result depends on the order of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np

from ..core.errors import DataError, SettingsError, nearest

TRUE_POSITIVE_RATE = 0.95


def accuracy(correct: np.ndarray) -> float:
    """Closed-set accuracy: the fraction of the known images whose predicted class is right.

    Args:
        correct: bool `[n_known]`.

    Raises:
        DataError: no known image.
    """
    correct = _checked_correct(correct)
    if correct.size == 0:
        raise DataError("accuracy needs at least one known image; the test set of the known classes is empty")
    return float(correct.mean())


def auroc(known_scores: np.ndarray, unknown_scores: np.ndarray) -> float:
    """Area under the ROC curve = P(score of a known > score of an unknown) + P(equal) / 2.

    Args:
        known_scores: `[n_known]`, larger = more known.
        unknown_scores: `[n_unknown]`.

    Raises:
        DataError: a set is empty, a score is NaN or an array has a wrong shape.

    Source: Hanley and McNeil, "The meaning and use of the area under a receiver operating characteristic (ROC) curve",
    Radiology 1982 (the Mann-Whitney form; ties by midranks).
    """
    return _single("auroc", known_scores, unknown_scores)


def aupr_known(known_scores: np.ndarray, unknown_scores: np.ndarray) -> float:
    """Average precision with the knowns as positives: sum over thresholds of (R_t - R_(t-1)) * P_t, no interpolation.

    This is scikit-learn's `average_precision_score`. It depends on how many unknowns there are for each known.
    Arguments and errors as in `auroc`.
    """
    return _single("aupr_known", known_scores, unknown_scores)


def aupr_unknown(known_scores: np.ndarray, unknown_scores: np.ndarray) -> float:
    """Average precision with the unknowns as positives, found by a low score. Otherwise as `aupr_known`."""
    return _single("aupr_unknown", known_scores, unknown_scores)


def fpr_at_tpr(known_scores: np.ndarray, unknown_scores: np.ndarray, tpr: float = TRUE_POSITIVE_RATE) -> float:
    """False positive rate of the unknowns when at least a fraction `tpr` of the knowns is accepted. Lower is better.

    The threshold is the largest score t with |{known: s >= t}| / n_known >= tpr; the result is
    |{unknown: s >= t}| / n_unknown. Scores that tie with t are accepted in both sets. There is no interpolation
    between thresholds: this is the first point of the ROC curve that reaches `tpr`.
    Other arguments and errors as in `auroc`.

    Raises:
        SettingsError: `tpr` is not in (0, 1].

    Source: Liang, Li and Srikant, "Enhancing the reliability of out-of-distribution image detection in neural
    networks", ICLR 2018.
    """
    if not 0 < tpr <= 1:
        raise SettingsError(f"fpr_at_tpr: tpr {tpr} is not in (0, 1]; use for example 0.95")
    return float(_fpr_at_tpr(Ranking(known_scores, unknown_scores).weighted(), tpr)[0])


def oscr(known_scores: np.ndarray, unknown_scores: np.ndarray, known_correct: np.ndarray) -> float:
    """Open-set classification rate: area under the correct classification rate against the false positive rate.

    For a threshold t, CCR(t) = |{known: predicted class right and s >= t}| / n_known and
    FPR(t) = |{unknown: s >= t}| / n_unknown. The curve runs from (0, 0) to (1, closed-set accuracy); the area is the
    trapezoidal rule over every distinct score, so it is at most the accuracy.

    Dhamija et al. count s > t for CCR and s >= t for FPR, which makes a tie of a known with an unknown a full loss.
    Here both sides count s >= t, so that a tie is a diagonal of the curve and counts one half, as in AUROC. Without
    ties the two are the same. With this area OSCR equals `openauc`; both names are kept because papers report both.

    Args:
        known_scores: `[n_known]`, larger = more known.
        unknown_scores: `[n_unknown]`.
        known_correct: bool `[n_known]`, whether the predicted class of each known is right.

    Raises:
        DataError: a set is empty, a score is NaN or an array has a wrong shape.

    Source: Dhamija, Günther and Boult, "Reducing network agnostophobia", NeurIPS 2018.
    """
    return _single("oscr", known_scores, unknown_scores, known_correct)


def openauc(known_scores: np.ndarray, unknown_scores: np.ndarray, known_correct: np.ndarray) -> float:
    """P(a known is classified correctly and its score exceeds that of an unknown), ties of scores counting one half.

    Arguments and errors as in `oscr`, to which it is equal.

    Source: Wang et al., "OpenAUC: towards AUC-oriented open-set recognition", NeurIPS 2022.
    """
    return _single("openauc", known_scores, unknown_scores, known_correct)


class Ranking:
    """Scores of the knowns and unknowns of one evaluation, sorted once.

    Args:
        known_scores: `[n_known]`, larger = more known.
        unknown_scores: `[n_unknown]`.
        known_correct: bool `[n_known]`, whether the predicted class of each known is right; only `oscr` and `openauc`
            need it.

    Raises:
        DataError: a set is empty, a score is NaN or an array has a wrong shape.
    """

    def __init__(
        self,
        known_scores: np.ndarray,
        unknown_scores: np.ndarray,
        known_correct: np.ndarray | None = None,
    ):
        known_scores = _checked_scores(known_scores, "known")
        unknown_scores = _checked_scores(unknown_scores, "unknown")
        self.known_order = np.argsort(known_scores, kind="stable")
        self.unknown_order = np.argsort(unknown_scores, kind="stable")
        known = known_scores[self.known_order]
        unknown = unknown_scores[self.unknown_order]
        self.n_known, self.n_unknown = known.size, unknown.size
        self.correct = None
        if known_correct is not None:
            known_correct = _checked_correct(known_correct)
            if known_correct.size != known.size:
                raise DataError(
                    f"{known.size} known scores but {known_correct.size} known_correct values; "
                    "both must describe the same known images in the same order"
                )
            self.correct = known_correct[self.known_order]
        self.known_scores, self.unknown_scores = known, unknown
        # For the image at each place of the ascending order: how many images of a set score lower, or no higher.
        # They index the running sums of any weights, so that tied images always enter together.
        self.known_below_known = np.searchsorted(known, known, side="left")
        self.unknown_below_known = np.searchsorted(unknown, known, side="left")
        self.unknown_up_to_known = np.searchsorted(unknown, known, side="right")
        self.unknown_up_to_unknown = np.searchsorted(unknown, unknown, side="right")
        self.known_up_to_unknown = np.searchsorted(known, unknown, side="right")

    def weighted(self, known_weights: np.ndarray | None = None, unknown_weights: np.ndarray | None = None) -> Weighted:
        """The evaluation in which image i counts `weights[i]` times, for one or many weightings at once.

        Args:
            known_weights: `[n_known, columns]`, not negative, in the order of the scores given; each column is one
                weighting and has a sum above 0. Every weight is 1 if absent (one column).
            unknown_weights: `[n_unknown, columns]`, likewise.
        """
        if known_weights is None:
            known_weights = np.ones((self.n_known, 1))
        if unknown_weights is None:
            unknown_weights = np.ones((self.n_unknown, 1))
        return Weighted(self, known_weights, unknown_weights)


class Weighted:
    """Running sums over a `Ranking` for every column of weights; metrics share them, each is made on first use."""

    def __init__(self, ranking: Ranking, known_weights: np.ndarray, unknown_weights: np.ndarray):
        self.ranking = ranking
        self.known = known_weights.take(ranking.known_order, axis=0)
        self.unknown = unknown_weights.take(ranking.unknown_order, axis=0)

    @cached_property
    def known_sums(self) -> np.ndarray:
        """`[n_known + 1, columns]`: entry i is the weight of the i lowest knowns."""
        return _running_sums(self.known)

    @cached_property
    def unknown_sums(self) -> np.ndarray:
        """`[n_unknown + 1, columns]`: entry j is the weight of the j lowest unknowns."""
        return _running_sums(self.unknown)

    @property
    def known_total(self) -> np.ndarray:
        return self.known_sums[-1]

    @property
    def unknown_total(self) -> np.ndarray:
        return self.unknown_sums[-1]

    @cached_property
    def unknown_below_known(self) -> np.ndarray:
        """`[n_known, columns]`: weight of the unknowns that score lower than each known."""
        return self.unknown_sums.take(self.ranking.unknown_below_known, axis=0)

    @cached_property
    def wins(self) -> np.ndarray:
        """`[n_known, columns]`: weight of the unknowns that each known beats, ties counting half, times its own."""
        up_to = self.unknown_sums.take(self.ranking.unknown_up_to_known, axis=0)
        return self.known * (self.unknown_below_known + up_to) / 2

    @cached_property
    def correct_wins(self) -> np.ndarray:
        """`[columns]`: the fraction of (known, unknown) pairs in which the known is right and wins, ties one half."""
        correct = self.ranking.correct
        if correct is None:
            raise DataError("oscr and openauc need known_correct: whether the class of each known image is right")
        return self.wins[correct].sum(axis=0) / (self.known_total * self.unknown_total)


def _auroc(weighted: Weighted) -> np.ndarray:
    return weighted.wins.sum(axis=0) / (weighted.known_total * weighted.unknown_total)


def _aupr_known(weighted: Weighted) -> np.ndarray:
    # precision at the threshold of each known: everything that scores as high or higher is accepted
    below = weighted.known_sums.take(weighted.ranking.known_below_known, axis=0)
    true_positives = weighted.known_total - below
    false_positives = weighted.unknown_total - weighted.unknown_below_known
    return _summed_precision(weighted.known, true_positives, false_positives) / weighted.known_total


def _aupr_unknown(weighted: Weighted) -> np.ndarray:
    true_positives = weighted.unknown_sums.take(weighted.ranking.unknown_up_to_unknown, axis=0)
    false_positives = weighted.known_sums.take(weighted.ranking.known_up_to_unknown, axis=0)
    return _summed_precision(weighted.unknown, true_positives, false_positives) / weighted.unknown_total


def _summed_precision(weights: np.ndarray, true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    accepted = true_positives + false_positives
    # nothing is accepted only beyond the last image drawn, where the weight is 0 as well
    precision = np.divide(true_positives, accepted, out=np.zeros_like(accepted), where=accepted > 0)
    return (weights * precision).sum(axis=0)


def _fpr_at_tpr(weighted: Weighted, tpr: float = TRUE_POSITIVE_RATE) -> np.ndarray:
    ranking, total = weighted.ranking, weighted.known_total
    # entry i of known_sums is the weight rejected at the threshold of known i (of the first of its ties). Dividing
    # before comparing makes 19 of 20 reach 0.95 exactly, where 0.95 * 20 might round upwards.
    rejected = weighted.known_sums.take(ranking.known_below_known, axis=0)
    reaches = (total - rejected) / total >= tpr
    place = reaches.sum(axis=0) - 1
    below = weighted.unknown_below_known[place, np.arange(place.size)]
    return (weighted.unknown_total - below) / weighted.unknown_total


def _correct_wins(weighted: Weighted) -> np.ndarray:
    return weighted.correct_wins


METRICS: dict[str, Callable[[Weighted], np.ndarray]] = {
    "auroc": _auroc,
    "aupr_known": _aupr_known,
    "aupr_unknown": _aupr_unknown,
    "fpr95": _fpr_at_tpr,
    "oscr": _correct_wins,
    "openauc": _correct_wins,
}


def compute(names: Iterable[str], weighted: Weighted) -> dict[str, np.ndarray]:
    """The metrics called `names` in `METRICS`, each float64 `[columns]`: one value a column of weights.

    Raises:
        SettingsError: there is no metric of that name.
        DataError: `oscr` or `openauc` of a ranking that was made without `known_correct`.
    """
    values = {}
    for name in names:
        if name not in METRICS:
            raise SettingsError(f"unknown metric {name!r}; {nearest(name, METRICS)}")
        values[name] = METRICS[name](weighted)
    return values


def roc_curve(known_scores: np.ndarray, unknown_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve, one point a distinct score, from (0, 0) at the threshold infinity to (1, 1).

    Returns:
        false positive rate, true positive rate and threshold, each float64 `[distinct scores + 1]`; the thresholds
        fall, an image is accepted if its score is at least the threshold.

    Arguments and errors as in `auroc`.
    """
    ranking = Ranking(known_scores, unknown_scores)
    return _curve(ranking, np.ones(ranking.n_known))


def oscr_curve(
    known_scores: np.ndarray, unknown_scores: np.ndarray, known_correct: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The OSCR curve, from (0, 0) to (1, closed-set accuracy); the trapezoidal area under it is `oscr`.

    Returns:
        false positive rate, correct classification rate and threshold, as in `roc_curve`.

    Arguments and errors as in `oscr`.
    """
    ranking = Ranking(known_scores, unknown_scores, known_correct)
    return _curve(ranking, _checked_correct(known_correct)[ranking.known_order].astype(np.float64))


def _curve(ranking: Ranking, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    thresholds = np.unique(np.concatenate([ranking.known_scores, ranking.unknown_scores]))[::-1]
    known_rejected = np.searchsorted(ranking.known_scores, thresholds, side="left")
    unknown_rejected = np.searchsorted(ranking.unknown_scores, thresholds, side="left")
    sums = _running_sums(counted)
    rate = (sums[-1] - sums[known_rejected]) / ranking.n_known
    false_positive_rate = (ranking.n_unknown - unknown_rejected) / ranking.n_unknown
    return (
        np.concatenate([[0.0], false_positive_rate]),
        np.concatenate([[0.0], rate]),
        np.concatenate([[np.inf], thresholds]),
    )


def on_grid(x: np.ndarray, y: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A curve's height on a fixed grid, so that curves of several runs can be averaged point by point.

    Between points the curve is a straight line. Where it is vertical the upper end is taken: the best rate that
    is reached at that false positive rate.

    Args:
        x: `[points]`, never falling, from 0 to 1.
        y: `[points]`.
        grid: `[m]`, within `x`.

    Returns:
        float64 `[m]`.
    """
    right = np.searchsorted(x, grid, side="right")
    left = right - 1
    right = np.minimum(right, x.size - 1)
    width = x[right] - x[left]
    share = np.divide(grid - x[left], width, out=np.zeros(len(grid)), where=width > 0)
    return y[left] + share * (y[right] - y[left])


def _single(
    name: str, known_scores: np.ndarray, unknown_scores: np.ndarray, known_correct: np.ndarray | None = None
) -> float:
    return float(METRICS[name](Ranking(known_scores, unknown_scores, known_correct).weighted())[0])


def _running_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros((values.shape[0] + 1, *values.shape[1:]))
    np.cumsum(values, axis=0, out=sums[1:])
    return sums


def _checked_scores(scores: np.ndarray, which: str) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise DataError(f"{which} scores have shape {list(scores.shape)}; one score an image is needed, shape [n]")
    if scores.size == 0:
        raise DataError(f"there is no {which} image to evaluate; check the split's test images")
    missing = int(np.isnan(scores).sum())
    if missing:
        raise DataError(
            f"{missing} of {scores.size} {which} scores are NaN; the model that made them has probably diverged, "
            "train it again with a lower learning rate"
        )
    return scores


def _checked_correct(correct: np.ndarray) -> np.ndarray:
    correct = np.asarray(correct)
    if correct.ndim != 1 or correct.dtype != np.bool_:
        raise DataError(
            f"known_correct has shape {list(correct.shape)} and dtype {correct.dtype}; it must be bool, shape [n_known]"
        )
    return correct

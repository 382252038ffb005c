"""Operating points: the score from which on an image counts as known, and how sure its rates are.

A threshold is chosen on images that no weight was fitted to: validation images, or images kept for calibration.
Scores follow the convention of `scores`: larger = more known. An image is accepted where its score reaches the
threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..core.errors import DataError, SettingsError
from .scores import SCORES
from .scores import score as score_images

DEFAULT_ACCEPTANCE = 0.95
CONFIDENCE = 0.95
# the source of thresholds that every training leaves
VALIDATION = "validation images of the training"
# the same where these images also chose the epoch whose weights are kept: rates on them are a little optimistic
VALIDATION_CHOSE = "validation images of the training, which also chose its epoch"
# With fewer images than this beyond a threshold, one image more or less moves it too far to be relied on.
LEAST_BEYOND = 20


@dataclass(frozen=True)
class Rate:
    """How many of some images were accepted, with the exact 95 % interval of the rate behind it.

    `images`: how many there were; `accepted`: of these; `rate`, `low`, `high`: fractions.
    """

    images: int
    accepted: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class OperatingPoint:
    """One threshold and the calibration behind it.

    Attributes:
        target: what was asked for: a rate of accepted knowns, or of accepted unknowns.
        level: the rate that was asked for.
        threshold: images whose score is at least this are accepted as known.
        known: calibration images of known classes.
        unknown: calibration images of anything else; None where there were none.
        beyond: calibration images on the far side of the threshold, which it rests on.
        source: where the calibration images come from, in words.
    """

    target: Literal["acceptance", "false_acceptance"]
    level: float
    threshold: float
    known: Rate
    unknown: Rate | None
    beyond: int
    source: str

    @property
    def name(self) -> str:
        """The point in words, for example `95 % of knowns accepted`."""
        what = "knowns" if self.target == "acceptance" else "unknowns"
        return f"{100 * self.level:g} % of {what} accepted"

    def warning(self) -> str | None:
        """A sentence where the calibration images are too few for what was asked; None where they suffice."""
        if self.beyond >= LEAST_BEYOND:
            return None
        rare = 1 - self.level if self.target == "acceptance" else self.level
        what = "known" if self.target == "acceptance" else "unknown"
        enough = "" if rare <= 0 else f"; about {math.ceil(LEAST_BEYOND / rare)} {what} images would be enough"
        side = "below" if self.target == "acceptance" else "at or above"
        return (
            f"the threshold for {self.name} rests on {self.beyond} {what} "
            f"{'image' if self.beyond == 1 else 'images'} {side} it, fewer than {LEAST_BEYOND}{enough}"
        )


def exact_interval(accepted: int, images: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The central interval of a rate of which `accepted` of `images` were seen; it covers at least `confidence`.

    Raises:
        DataError: there is no image.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 1934.
    """
    if images < 1:
        raise DataError("a rate needs at least one image; give some")
    # scipy takes a fifth of a second to import, and who only applies a threshold never comes here
    from scipy.special import betaincinv

    tail = (1 - confidence) / 2
    low = 0.0 if accepted == 0 else float(betaincinv(accepted, images - accepted + 1, tail))
    high = 1.0 if accepted == images else float(betaincinv(accepted + 1, images - accepted, 1 - tail))
    return low, high


def rate(scores: np.ndarray, threshold: float) -> Rate:
    """The rate of scores `[n]` that reach a threshold.

    Raises:
        DataError: there is no score.
    """
    accepted, images = int(np.count_nonzero(scores >= threshold)), len(scores)
    low, high = exact_interval(accepted, images)
    return Rate(images, accepted, accepted / images, low, high)


def at_acceptance(
    known: np.ndarray, level: float = DEFAULT_ACCEPTANCE, *, unknown: np.ndarray | None = None, source: str
) -> OperatingPoint:
    """The largest threshold that accepts at least the fraction `level` of the knowns.

    The interval of the acceptance is that of Clopper and Pearson for the accepted among the images. For new images the
    acceptance at an order statistic of n scores has a beta distribution, whose central 95 % lie inside this interval:
    what was chosen on the same images is covered as well as what was counted on others.

    Args:
        known: scores of known images, `[n]`.
        level: in (0, 1].
        unknown: scores of other images, `[m]`, if there are any: they are counted, not fitted to.
        source: where the images come from.

    Raises:
        SettingsError: `level` is not in (0, 1].
        DataError: there is no known image, or a score is NaN.
    """
    if not 0 < level <= 1:
        raise SettingsError(f"an acceptance of {level:g} is not in (0, 1]; use for example 0.95")
    known, unknown = _checked(known, "known"), None if unknown is None else _checked(unknown, "unknown")
    # rounding must not ask for one image more: 0.95 of 100 is 95 images, not 95.00000000000001
    needed = max(1, math.ceil(level * len(known) - 1e-9))
    threshold = float(np.sort(known)[len(known) - needed])
    return _point("acceptance", level, threshold, known, unknown, int(np.count_nonzero(known < threshold)), source)


def at_false_acceptance(known: np.ndarray, unknown: np.ndarray, level: float, *, source: str) -> OperatingPoint:
    """The smallest threshold that accepts at most the fraction `level` of the unknowns.

    Arguments and errors as in `at_acceptance`, with `level` in [0, 1).
    """
    if not 0 <= level < 1:
        raise SettingsError(f"a false acceptance of {level:g} is not in [0, 1); use for example 0.05")
    known, unknown = _checked(known, "known"), _checked(unknown, "unknown")
    allowed = math.floor(level * len(unknown) + 1e-9)
    # just above the first score that must stay out, so that every tie with it stays out too
    threshold = float(np.nextafter(np.sort(unknown)[len(unknown) - 1 - allowed], np.inf))
    beyond = int(np.count_nonzero(unknown >= threshold))
    return _point("false_acceptance", level, threshold, known, unknown, beyond, source)


def operating_points(
    known: tuple[np.ndarray, np.ndarray],
    unknown: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    accept: Sequence[float],
    false_accept: Sequence[float] = (),
    source: str,
) -> dict[str, tuple[OperatingPoint, ...]]:
    """Thresholds of every score, from features and logits of calibration images.

    Raises:
        DataError: there is no image, or a score is not finite.
        SettingsError: nothing is asked for, a rate is out of range, or there are no unknowns to count.
    """
    if not accept and not false_accept:
        raise SettingsError("nothing to calibrate for; give a rate of accepted knowns, for example 0.95")
    if false_accept and unknown is None:
        raise SettingsError("a rate of accepted unknowns needs examples of unknowns; name their folder with --unknown")
    points: dict[str, tuple[OperatingPoint, ...]] = {}
    for name in SCORES:
        of_known = score_images(name, *known)
        of_unknown = None if unknown is None else score_images(name, *unknown)
        points[name] = tuple(at_acceptance(of_known, level, unknown=of_unknown, source=source) for level in accept)
        if of_unknown is not None:
            points[name] += tuple(
                at_false_acceptance(of_known, of_unknown, level, source=source) for level in false_accept
            )
    return points


def find(points: Sequence[OperatingPoint], target: str, level: float) -> OperatingPoint | None:
    """The point of that target and level, or None."""
    return next((point for point in points if point.target == target and abs(point.level - level) < 1e-9), None)


def _point(
    target: Literal["acceptance", "false_acceptance"],
    level: float,
    threshold: float,
    known: np.ndarray,
    unknown: np.ndarray | None,
    beyond: int,
    source: str,
) -> OperatingPoint:
    of_unknown = None if unknown is None else rate(unknown, threshold)
    return OperatingPoint(target, level, threshold, rate(known, threshold), of_unknown, beyond, source)


def _checked(scores: np.ndarray, which: str) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1 or not scores.size:
        raise DataError(f"there is no {which} image to calibrate with; give a folder that has some")
    wrong = int(np.count_nonzero(~np.isfinite(scores)))
    if wrong:
        raise DataError(
            f"{wrong} of {scores.size} scores of {which} images are not finite; the model has probably diverged, "
            "train it again with a lower learning rate"
        )
    return scores

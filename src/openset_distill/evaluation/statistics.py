"""How sure a number is: intervals for one run, spread over runs, and paired comparison with a baseline.

Two sources of uncertainty are kept apart. `bootstrap` and `percentile_interval` answer "what if other test images had
been drawn?" for one trained model. `mean_std` and `paired_difference` answer "what if other classes had been known?"
for a method: replicates of a class set are averaged first, and only class sets are counted. Where there are too few
numbers to answer, the answer is NaN.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import DataError
from . import metrics

CONFIDENCE = 0.95
# one trained network: its class set first, then what tells replicates apart, for example split and seed
Unit = tuple[Any, ...]

# Elements of a block of weights: 2 MB of float64 stays in a core's cache while all the metrics read it.
_BLOCK = 2**18


def resample_weights(n: int, draws: int, columns: int, generator: np.random.Generator) -> np.ndarray:
    """How often each of `n` images is drawn in a bootstrap resample, for `columns` resamples.

    Returns:
        float64 `[n, columns]`; every column sums to `draws`. Resamples are drawn one after the other, so that the
        result for many columns is the same whether they are asked for at once or in several calls.
    """
    index = generator.integers(0, n, size=(columns, draws)) * columns + np.arange(columns)[:, None]
    return np.bincount(index.ravel(), minlength=n * columns).reshape(n, columns).astype(np.float64)


def bootstrap(
    rankings: Mapping[str, metrics.Ranking],
    names: Iterable[str],
    *,
    resamples: int,
    generator: np.random.Generator,
    unknown_draws: int | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Metrics of bootstrap resamples of the test images, knowns and unknowns resampled separately (stratified).

    All the rankings see the same resamples, so that differences between scores are paired. A resample is a vector of
    weights over scores that are already sorted, so each metric of it takes linear time and is exact.

    Args:
        rankings: score name -> ranking; all of the same images in the same order.
        names: metrics, from `metrics.METRICS`.
        resamples: how many.
        generator: source of the draws.
        unknown_draws: how many unknowns a resample draws. The default is their number. Give fewer where images are
            repeated: repeats carry no information, and drawing them as if they did would make the interval too narrow.
            The draws are then weighted up to the full number, so that the share of unknowns, on which AUPR depends,
            stays.

    Returns:
        score name -> metric -> float64 `[resamples]`.

    Raises:
        DataError: there is no ranking or they differ in size.
        SettingsError: unknown metric.
    """
    names = list(names)
    sizes = {(ranking.n_known, ranking.n_unknown) for ranking in rankings.values()}
    if len(sizes) != 1:
        raise DataError(
            f"bootstrap needs rankings of the same images; sizes (known, unknown) are {sorted(sizes) or 'absent'}"
        )
    ((n_known, n_unknown),) = sizes
    unknown_draws = unknown_draws or n_unknown
    known_generator, unknown_generator = generator.spawn(2)
    values = {score: {name: np.empty(resamples) for name in names} for score in rankings}
    step = max(1, _BLOCK // max(n_known, n_unknown))
    for start in range(0, resamples, step):
        block = slice(start, min(start + step, resamples))
        columns = block.stop - block.start
        known_weights = resample_weights(n_known, n_known, columns, known_generator)
        unknown_weights = resample_weights(n_unknown, unknown_draws, columns, unknown_generator)
        if unknown_draws != n_unknown:
            unknown_weights *= n_unknown / unknown_draws
        for score, ranking in rankings.items():
            computed = metrics.compute(names, ranking.weighted(known_weights, unknown_weights))
            for name in names:
                values[score][name][block] = computed[name]
    return values


def bootstrap_accuracy(correct: np.ndarray, *, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Closed-set accuracy of bootstrap resamples of the known test images, float64 `[resamples]`.

    The number of right answers in a resample of n images is binomial(n, accuracy): it is drawn directly.

    Args:
        correct: bool `[n_known]`.

    Raises:
        DataError: no known image.
    """
    n_known = len(correct)
    return generator.binomial(n_known, metrics.accuracy(correct), size=resamples) / n_known


def percentile_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The central part of bootstrap values that holds `confidence` of them; (NaN, NaN) if there are none.

    Source: Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    if len(values) == 0:
        return float("nan"), float("nan")
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Spread:
    """Number, mean and sample standard deviation (divisor n - 1) of a metric over class sets."""

    n: int
    mean: float
    std: float


def mean_std(values: Iterable[float]) -> Spread:
    """Mean and standard deviation over class sets; the mean of nothing and the deviation of one are NaN.

    Raises:
        DataError: a value is not finite.
    """
    array = np.asarray(list(values), dtype=np.float64)
    _check_finite(array, "values to average")
    return Spread(
        n=array.size,
        mean=float(array.mean()) if array.size else float("nan"),
        std=float(array.std(ddof=1)) if array.size > 1 else float("nan"),
    )


def class_set_means(values: Mapping[Unit, float]) -> dict[Hashable, float]:
    """The mean of each class set over its replicates: seeds, and splits with the same classes.

    Replicates share their classes, and results depend on the classes more than on anything else: counted one by one
    they would make every interval too narrow.

    Args:
        values: unit -> value; the first part of a unit names its class set.

    >>> class_set_means({("animals", 0): 0.5, ("animals", 1): 0.7, ("tools", 0): 0.9})
    {'animals': 0.6, 'tools': 0.9}
    """
    groups: dict[Hashable, list[float]] = {}
    for unit, value in values.items():
        groups.setdefault(unit[0], []).append(value)
    return {class_set: float(np.mean(group)) for class_set, group in groups.items()}


def t_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's t interval of a mean, from independent values; (NaN, NaN) for fewer than two.

    Equal values have an interval of no width: mean and mean.

    Source: Student, "The probable error of a mean", Biometrika 1908.
    """
    array = np.asarray(list(values), dtype=np.float64)
    if array.size < 2:
        return float("nan"), float("nan")
    # scipy takes a fifth of a second to import, and an evaluation of one run never comes here
    from scipy.special import stdtrit

    half = float(stdtrit(array.size - 1, (1 + confidence) / 2)) * array.std(ddof=1) / np.sqrt(array.size)
    return float(array.mean() - half), float(array.mean() + half)


@dataclass(frozen=True)
class PairedDifference:
    """A method less its baseline over the class sets that both have. What cannot be said is NaN.

    Attributes:
        n: number of class sets.
        pairs: number of pairs, of all splits and seeds.
        difference: mean difference of the class sets.
        low, high: Student's t interval of the mean difference.
        effect_size: Cohen's d_z, mean difference / standard deviation of the class sets' differences.
        p_value: two-sided paired t test.
    """

    n: int
    pairs: int
    difference: float
    low: float
    high: float
    effect_size: float
    p_value: float


def paired_difference(
    values: Mapping[Unit, float], baseline: Mapping[Unit, float], *, confidence: float = CONFIDENCE
) -> PairedDifference:
    """Compares a method with a baseline, unit by unit: the same class set, split and seed on both sides.

    Differences are averaged within each class set, and Student's t is taken over class sets: what is asked is how the
    method would do with other classes. Units that only one side has do not enter; `pairs` says how many did.

    Interval, effect size and p-value need two class sets. Where all differences are equal, up to rounding, the interval
    has no width, there is no effect size, and p is 1 if they are zero and 0 if they are not.

    Args:
        values: unit, for example (class set, split, seed) -> metric of the method; the first part of a unit names its
            class set.
        baseline: unit -> metric of the baseline.

    Raises:
        DataError: a value of a common unit is not finite.
    """
    units = [unit for unit in values if unit in baseline]
    differences = {unit: values[unit] - baseline[unit] for unit in units}
    _check_finite(np.asarray(list(differences.values())), f"paired differences over the units {units}")
    means = np.asarray(list(class_set_means(differences).values()), dtype=np.float64)
    mean = float(means.mean()) if means.size else float("nan")
    low, high = t_interval(means, confidence)
    effect_size = p_value = float("nan")
    if means.size > 1:
        deviation = means.std(ddof=1)
        largest = np.abs(means).max()
        # equal numbers leave a deviation of rounding errors, and a ratio to it means nothing
        if deviation > 1e-12 * largest:
            from scipy.special import stdtr

            effect_size = float(mean / deviation)
            p_value = float(2 * stdtr(means.size - 1, -abs(effect_size) * np.sqrt(means.size)))
        else:
            p_value = 0.0 if largest else 1.0
    return PairedDifference(means.size, len(units), mean, low, high, effect_size, p_value)


def holm(p_values: Iterable[float]) -> np.ndarray:
    """P-values corrected for their number: all of those below a level hold together with that level's error.

    NaN stands for a test that was not made: it stays, and does not count.

    >>> holm([0.01, 0.04, float("nan"), 0.03]).tolist()
    [0.03, 0.06, nan, 0.06]

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979.
    """
    values = np.asarray(list(p_values), dtype=np.float64)
    made = np.flatnonzero(~np.isnan(values))
    order = made[np.argsort(values[made], kind="stable")]
    corrected = np.full(values.size, np.nan)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(order.size, 0, -1)))
    return corrected


def _check_finite(values: np.ndarray, what: str) -> None:
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise DataError(
            f"{wrong} of {values.size} {what} are not finite; "
            "evaluate the runs that they come from again, or leave those out"
        )

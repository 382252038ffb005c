"""How sure a number is: intervals for one run, spread over runs, and paired comparison with a baseline.

Two sources of uncertainty are kept apart. `bootstrap` and `percentile_interval` answer "what if other test images had
been drawn?" for one trained model. `mean_std` and `paired_difference` answer "what if other splits and seeds had been
used?" for a method. Where there are too few numbers to answer, the answer is NaN.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..core.errors import DataError
from . import metrics

CONFIDENCE = 0.95
# With two pairs every sign pattern has a probability of at least 1/4: nothing can be learned from a test.
LEAST_PAIRS = 3
# The bootstrap mean of n pairs never leaves their range, and that range holds the true mean with a probability of
# at most 1 - 2 ** (1 - n) when the differences are symmetric: 75 % for three pairs, 94 % for five.
LEAST_PAIRS_FOR_INTERVAL = 5
# Above this many pairs the 2 ** n sign patterns are sampled.
MOST_PAIRS_FOR_EXACT_TEST = 12

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


def bootstrap_interval(
    name: str,
    known_scores: np.ndarray,
    unknown_scores: np.ndarray,
    known_correct: np.ndarray | None = None,
    *,
    resamples: int = 1000,
    confidence: float = CONFIDENCE,
    seed: int,
) -> tuple[float, float]:
    """Bootstrap percentile interval of one metric of one run, knowns and unknowns resampled separately.

    Args:
        name: a key of `metrics.METRICS`.
        known_scores: `[n_known]`, larger = more known.
        unknown_scores: `[n_unknown]`.
        known_correct: bool `[n_known]`, needed by `oscr` and `openauc`.

    Returns:
        (low, high); (NaN, NaN) where either set has a single image, which resampling cannot vary.

    Raises:
        DataError, SettingsError: as `bootstrap` and `metrics.Ranking`.
    """
    ranking = metrics.Ranking(known_scores, unknown_scores, known_correct)
    if min(ranking.n_known, ranking.n_unknown) < 2:
        resamples = 0
    values = bootstrap({"score": ranking}, [name], resamples=resamples, generator=np.random.default_rng(seed))
    return percentile_interval(values["score"][name], confidence)


@dataclass(frozen=True)
class Spread:
    """Number, mean and sample standard deviation (divisor n - 1) of a metric over splits and seeds."""

    n: int
    mean: float
    std: float


def mean_std(values: Iterable[float]) -> Spread:
    """Mean and standard deviation over splits and seeds; the mean of nothing and the deviation of one are NaN.

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


@dataclass(frozen=True)
class PairedDifference:
    """A method less its baseline over the (split, seed) units that both have. What cannot be said is NaN.

    Attributes:
        n: number of pairs.
        difference: mean difference.
        low, high: bootstrap interval of the mean difference.
        effect_size: Cohen's d_z, mean difference / standard deviation of the differences.
        p_value: two-sided sign-flip permutation test.
    """

    n: int
    difference: float
    low: float
    high: float
    effect_size: float
    p_value: float


def paired_difference(
    values: Mapping[Hashable, float],
    baseline: Mapping[Hashable, float],
    *,
    seed: int,
    resamples: int = 10_000,
    confidence: float = CONFIDENCE,
) -> PairedDifference:
    """Compares a method with a baseline, unit by unit: the same split and seed on both sides.

    Units that only one side has do not enter; `n` says how many did. Units count as independent, although seeds of one
    split share their classes: with several seeds a split, intervals and p-values are on the optimistic side.

    - Interval: percentile bootstrap over the pairs, from `LEAST_PAIRS_FOR_INTERVAL` pairs on. The plain percentile
      interval of a few pairs is too short, so its tails are widened to match Student's t for n - 1 degrees of freedom
      (expanded percentile interval: Hesterberg, "What teachers should know about the bootstrap", The American
      Statistician 2015).
    - Effect size: from `LEAST_PAIRS` pairs on; NaN if all differences are equal.
    - p-value: from `LEAST_PAIRS` pairs on. Under the null hypothesis each difference is as likely to have the
      opposite sign. All 2 ** n sign patterns up to n = 12 (so never below 2 ** (1 - n)), `resamples` random ones above,
      where the observed pattern is counted too (Phipson and Smyth 2010), so it is never 0.

    Args:
        values: unit, for example (split, seed) -> metric of the method.
        baseline: unit -> metric of the baseline.
        seed: of the bootstrap and of the random sign patterns.
        resamples: bootstrap resamples and random sign patterns.

    Raises:
        DataError: a value of a common unit is not finite.
    """
    units = sorted(set(values) & set(baseline))
    differences = np.asarray([values[unit] - baseline[unit] for unit in units], dtype=np.float64)
    _check_finite(differences, f"paired differences over the units {units}")
    n = differences.size
    low = high = effect_size = p_value = float("nan")
    bootstrap_generator, flip_generator = np.random.default_rng(seed).spawn(2)
    if n >= LEAST_PAIRS_FOR_INTERVAL:
        low, high = _mean_interval(differences, resamples, confidence, bootstrap_generator)
    if n >= LEAST_PAIRS:
        deviation = differences.std(ddof=1)
        # equal numbers leave a deviation of rounding errors, and a ratio to it means nothing
        if deviation > 1e-12 * np.abs(differences).max():
            effect_size = float(differences.mean() / deviation)
        p_value = _sign_flip_test(differences, resamples, flip_generator)
    mean = float(differences.mean()) if n else float("nan")
    return PairedDifference(n, mean, low, high, effect_size, p_value)


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


def _mean_interval(
    differences: np.ndarray, resamples: int, confidence: float, generator: np.random.Generator
) -> tuple[float, float]:
    # scipy takes a fifth of a second to import, and an evaluation of one run never comes here
    from scipy.special import ndtr, stdtrit

    n = differences.size
    means = differences @ resample_weights(n, n, resamples, generator) / n
    tail = ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - confidence) / 2))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _sign_flip_test(differences: np.ndarray, resamples: int, generator: np.random.Generator) -> float:
    n = differences.size
    observed = abs(differences.sum())
    # sums in another order differ in the last bits; the observed pattern must count as reaching itself
    reached = observed - 1e-12 * np.abs(differences).sum()
    if n <= MOST_PAIRS_FOR_EXACT_TEST:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ differences) >= reached))
    signs = 1 - 2 * generator.integers(0, 2, size=(resamples, n), dtype=np.int8)
    return float((1 + np.count_nonzero(np.abs(signs @ differences) >= reached)) / (1 + resamples))


def _check_finite(values: np.ndarray, what: str) -> None:
    wrong = int(np.count_nonzero(~np.isfinite(values)))
    if wrong:
        raise DataError(
            f"{wrong} of {values.size} {what} are not finite; "
            "evaluate the runs that they come from again, or leave those out"
        )

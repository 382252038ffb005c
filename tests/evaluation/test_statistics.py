"""Intervals, spread and paired tests: exact cases, agreement with scipy, and coverage on simulated data."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats

from openset_distill.core.errors import DataError, SettingsError
from openset_distill.evaluation import metrics, statistics


def scores(seed, n_known, n_unknown, distance=1.0):
    generator = np.random.default_rng(seed)
    known, unknown = generator.normal(distance, 1, n_known), generator.normal(0, 1, n_unknown)
    return known, unknown, generator.random(n_known) < 0.8


def units(values):
    return {(index, 0): value for index, value in enumerate(values)}


def test_resample_weights_are_multinomial_and_do_not_depend_on_how_they_are_cut():
    weights = statistics.resample_weights(7, 5, 4000, np.random.default_rng(0))
    assert weights.shape == (7, 4000)
    assert (weights.sum(axis=0) == 5).all()
    np.testing.assert_allclose(weights.mean(axis=1), 5 / 7, atol=0.05)
    np.testing.assert_allclose(weights.var(axis=1), 5 / 7 * 6 / 7, atol=0.06)
    generator = np.random.default_rng(0)
    parts = [statistics.resample_weights(7, 5, columns, generator) for columns in (1, 999, 3000)]
    np.testing.assert_array_equal(np.hstack(parts), weights)


def test_bootstrap_equals_resampling_the_images_themselves():
    known, unknown, correct = scores(1, 30, 50)
    known, unknown = np.round(known, 1), np.round(unknown, 1)
    ranking = metrics.Ranking(known, unknown, correct)
    values = statistics.bootstrap({"score": ranking}, metrics.METRICS, resamples=5, generator=np.random.default_rng(3))[
        "score"
    ]
    known_generator, unknown_generator = np.random.default_rng(3).spawn(2)
    for resample in range(5):
        drawn_known = known_generator.integers(0, 30, 30)
        drawn_unknown = unknown_generator.integers(0, 50, 50)
        arguments = known[drawn_known], unknown[drawn_unknown]
        assert values["auroc"][resample] == pytest.approx(metrics.auroc(*arguments), abs=1e-12)
        assert values["aupr_known"][resample] == pytest.approx(metrics.aupr_known(*arguments), abs=1e-12)
        assert values["aupr_unknown"][resample] == pytest.approx(metrics.aupr_unknown(*arguments), abs=1e-12)
        assert values["fpr95"][resample] == pytest.approx(metrics.fpr_at_tpr(*arguments), abs=1e-12)
        oscr = metrics.oscr(*arguments, correct[drawn_known])
        assert values["oscr"][resample] == values["openauc"][resample] == pytest.approx(oscr, abs=1e-12)


def test_bootstrap_of_many_blocks_is_seeded_and_paired_over_scores():
    known, unknown, _ = scores(2, 20_000, 10)
    first, second = metrics.Ranking(known, unknown), metrics.Ranking(2 * known, 2 * unknown)
    run = [
        statistics.bootstrap({"a": first, "b": second}, ["auroc"], resamples=40, generator=np.random.default_rng(seed))
        for seed in (0, 0, 1)
    ]
    # scores that rank alike have the same value in every resample
    np.testing.assert_array_equal(run[0]["a"]["auroc"], run[0]["b"]["auroc"])
    np.testing.assert_array_equal(run[0]["a"]["auroc"], run[1]["a"]["auroc"])
    assert (run[0]["a"]["auroc"] != run[2]["a"]["auroc"]).any()
    assert len(np.unique(run[0]["a"]["auroc"])) == 40


def test_bootstrap_refuses_rankings_of_different_images_and_unknown_metrics():
    small, large = (metrics.Ranking(np.ones(n), np.zeros(n)) for n in (2, 3))
    with pytest.raises(DataError, match=r"rankings of the same images; sizes .*\(2, 2\), \(3, 3\)"):
        statistics.bootstrap({"a": small, "b": large}, ["auroc"], resamples=2, generator=np.random.default_rng(0))
    with pytest.raises(DataError, match=r"sizes .* are absent"):
        statistics.bootstrap({}, ["auroc"], resamples=2, generator=np.random.default_rng(0))
    with pytest.raises(SettingsError, match="unknown metric 'roc'"):
        statistics.bootstrap({"a": small}, ["roc"], resamples=2, generator=np.random.default_rng(0))


def test_repeated_images_do_not_make_the_interval_narrower():
    known, unknown, _ = scores(4, 400, 20)
    width = {}
    for times in (1, 20):
        ranking = metrics.Ranking(known, np.repeat(unknown, times))
        values = statistics.bootstrap(
            {"score": ranking},
            ["auroc", "aupr_known"],
            resamples=800,
            generator=np.random.default_rng(0),
            unknown_draws=20,
        )["score"]
        width[times] = values["auroc"].std()
        # the share of unknowns stays: 20 of 420, or 400 of 800
        value = metrics.aupr_known(known, np.repeat(unknown, times))
        assert values["aupr_known"].mean() == pytest.approx(value, abs=0.03)
    assert width[20] == pytest.approx(width[1], rel=0.15)


@pytest.mark.parametrize("name", ["auroc", "oscr"])
def test_the_interval_covers_the_true_value_about_95_times_in_100(name):
    # binormal scores: AUROC = Phi(distance / sqrt(2)); a class is right with probability 0.8 whatever the score
    truth = stats.norm.cdf(1 / math.sqrt(2)) * (0.8 if name == "oscr" else 1.0)
    covered = 0
    for seed in range(200):
        known, unknown, correct = scores(1000 + seed, 80, 120)
        ranking, draws = metrics.Ranking(known, unknown, correct), np.random.default_rng(seed)
        values = statistics.bootstrap({"score": ranking}, [name], resamples=300, generator=draws)
        low, high = statistics.percentile_interval(values["score"][name])
        assert low < high
        covered += low <= truth <= high
    # 190 expected, standard deviation 3; resampling 80 images costs a little
    assert 180 <= covered <= 198


def test_accuracy_bootstrap_is_binomial():
    correct = np.arange(200) < 150
    values = statistics.bootstrap_accuracy(correct, resamples=4000, generator=np.random.default_rng(0))
    assert values.mean() == pytest.approx(0.75, abs=0.003)
    assert values.std() == pytest.approx(math.sqrt(0.75 * 0.25 / 200), rel=0.05)


def test_percentile_interval():
    assert statistics.percentile_interval(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
    assert all(map(math.isnan, statistics.percentile_interval(np.array([]))))


def test_a_thousand_resamples_of_ten_thousand_images_take_a_second_or_two():
    known, unknown, correct = scores(5, 1000, 9000)
    ranking = metrics.Ranking(known, unknown, correct)
    start = time.process_time()
    statistics.bootstrap({"s": ranking}, metrics.METRICS, resamples=1000, generator=np.random.default_rng(0))
    assert time.process_time() - start < 4.0


def test_mean_and_standard_deviation():
    spread = statistics.mean_std([0.7, 0.8, 0.9])
    assert (spread.n, spread.mean, spread.std) == (3, pytest.approx(0.8), pytest.approx(0.1))
    one = statistics.mean_std([0.7])
    assert (one.n, one.mean) == (1, 0.7)
    assert math.isnan(one.std)
    none = statistics.mean_std([])
    assert none.n == 0
    assert math.isnan(none.mean)
    with pytest.raises(DataError, match="1 of 2 values to average are not finite"):
        statistics.mean_std([0.7, float("nan")])


def test_paired_difference_pairs_by_unit_and_not_by_order():
    baseline = {(split, seed): 0.5 + 0.1 * split + 0.01 * seed for split in range(3) for seed in range(2)}
    values = {unit: value + 0.02 + 0.01 * unit[0] for unit, value in reversed(baseline.items())}
    values[(9, 9)] = 0.0
    result = statistics.paired_difference(values, baseline)
    assert (result.n, result.pairs) == (3, 6)
    assert result.difference == pytest.approx(0.03)
    theirs = stats.ttest_rel([0.02, 0.03, 0.04], [0.0] * 3)
    assert (result.low, result.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert result.p_value == pytest.approx(theirs.pvalue)


def test_replicates_of_a_class_set_are_averaged_however_many_there_are():
    values = {
        ("a", 0, 0): 0.5,
        ("a", 1, 0): 0.7,
        ("b", 2, 0): 0.9,
        ("b", 2, 1): 0.8,
        ("b", 2, 2): 0.7,
        ("c", 3, 0): 0.1,
    }
    assert statistics.class_set_means(values) == pytest.approx({"a": 0.6, "b": 0.8, "c": 0.1})
    result = statistics.paired_difference(values, dict.fromkeys(values, 0.0))
    averaged = {("a",): 0.6, ("b",): 0.8, ("c",): 0.1}
    plain = statistics.paired_difference(averaged, dict.fromkeys(averaged, 0.0))
    assert (result.n, result.pairs, plain.pairs) == (3, 6, 3)
    for name in ("difference", "low", "high", "effect_size", "p_value"):
        assert getattr(result, name) == pytest.approx(getattr(plain, name))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 40])
def test_paired_difference_is_the_paired_t_test_of_scipy(n):
    generator = np.random.default_rng(n)
    method, baseline = generator.normal(0.6, 0.1, n), generator.normal(0.5, 0.1, n)
    result = statistics.paired_difference(units(method), units(baseline))
    theirs = stats.ttest_rel(method, baseline)
    assert result.difference == pytest.approx((method - baseline).mean())
    assert result.effect_size == pytest.approx(theirs.statistic / math.sqrt(n))
    assert result.p_value == pytest.approx(theirs.pvalue)
    assert (result.low, result.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    narrower = statistics.paired_difference(units(method), units(baseline), confidence=0.5)
    assert (narrower.low, narrower.high) == pytest.approx(tuple(theirs.confidence_interval(0.5)))


def test_equal_differences_have_an_interval_of_no_width():
    same = units(np.linspace(0.5, 0.9, 6))
    result = statistics.paired_difference(same, same)
    assert (result.difference, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert math.isnan(result.effect_size)
    shifted = statistics.paired_difference({unit: value + 0.02 for unit, value in same.items()}, same)
    assert (shifted.low, shifted.high) == (pytest.approx(0.02), pytest.approx(0.02))
    assert math.isnan(shifted.effect_size)
    assert shifted.p_value == 0.0


def test_swapping_the_sides_turns_the_sign():
    generator = np.random.default_rng(2)
    a, b = units(generator.random(9)), units(generator.random(9))
    there, back = (statistics.paired_difference(*pair) for pair in ((a, b), (b, a)))
    assert there.difference == pytest.approx(-back.difference)
    assert there.effect_size == pytest.approx(-back.effect_size)
    assert there.p_value == pytest.approx(back.p_value)
    assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))


@pytest.mark.parametrize(("n", "replicates"), [(0, 1), (1, 1), (1, 4), (2, 1), (2, 3)])
def test_fewer_than_two_class_sets_give_nan(n, replicates):
    generator = np.random.default_rng(0)
    values = {(class_set, seed): generator.random() for class_set in range(n) for seed in range(replicates)}
    result = statistics.paired_difference(values, dict.fromkeys(values, 0.0))
    assert (result.n, result.pairs) == (n, n * replicates)
    assert math.isfinite(result.difference) == (n > 0)
    for name in ("low", "high", "effect_size", "p_value"):
        assert math.isfinite(getattr(result, name)) == (n > 1), name


@pytest.mark.parametrize(("n", "seeds", "set_deviation", "seed_deviation"), [
    (5, 1, 1.0, 0.0), (8, 1, 1.0, 0.0), (5, 3, 1.0, 0.5), (8, 3, 0.5, 0.5), (5, 3, 0.3, 0.7), (8, 2, 0.0, 1.0),
])  # fmt: skip
def test_the_interval_over_class_sets_covers_the_truth_95_times_in_100(n, seeds, set_deviation, seed_deviation):
    """Seeds nested in class sets: counted one by one, as 15 = 5 x 3 units, they would cover 73 to 91 in 100."""
    trials, truth = 6000, 0.3
    generator = np.random.default_rng([n, seeds])
    drawn = truth + set_deviation * generator.standard_normal((trials, n, 1))
    drawn = drawn + seed_deviation * generator.standard_normal((trials, n, seeds))
    found = [(class_set, seed) for class_set in range(n) for seed in range(seeds)]
    baseline = dict.fromkeys(found, 0.0)
    results = [
        statistics.paired_difference(dict(zip(found, trial, strict=True)), baseline)
        for trial in drawn.reshape(trials, -1).tolist()
    ]
    covered = np.mean([result.low <= truth <= result.high for result in results])
    # of 6000 trials, the standard deviation of a share of 95 % is 0.28 %
    assert 0.94 <= covered <= 0.96
    # and the test is right as often: p is below 0.05 where the truth, as the null hypothesis, is left out
    shifted = np.mean(
        [
            result.p_value < 0.05
            for result in (
                statistics.paired_difference(dict(zip(found, trial, strict=True)), dict.fromkeys(found, truth))
                for trial in drawn[:2000].reshape(2000, -1).tolist()
            )
        ]
    )
    assert 0.035 <= shifted <= 0.065


def test_paired_values_must_be_finite():
    with pytest.raises(DataError, match=r"1 of 2 paired differences over the units \[\(0, 0\), \(1, 0\)\]"):
        statistics.paired_difference(units([0.5, float("nan")]), units([0.4, 0.4]))


def test_holm_by_hand():
    # 3 x 0.01, 2 x 0.03, then 0.04, which cannot fall below the one before it
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, np.nan, 0.03]), [0.03, 0.06, np.nan, 0.06])
    assert statistics.holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert statistics.holm([]).size == 0

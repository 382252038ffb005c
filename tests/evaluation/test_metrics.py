"""Metrics: independent implementations, literal definitions, ties, bounds and invariances."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_ood.metrics import functional as pytorch_ood
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from openset_distill.core.errors import DataError, SettingsError
from openset_distill.evaluation import metrics

PAIRED = {"auroc": metrics.auroc, "aupr_known": metrics.aupr_known, "aupr_unknown": metrics.aupr_unknown}


def sample(seed, n_known=137, n_unknown=211, ties=False):
    generator = np.random.default_rng(seed)
    known = generator.normal(1.0, 1.0, n_known)
    unknown = generator.normal(0.0, 1.3, n_unknown)
    if ties:
        known, unknown = np.round(known * 2) / 2, np.round(unknown * 2) / 2
    return known, unknown, generator.random(n_known) < 0.8


def literal_auroc(known, unknown, correct=None):
    """The mean over all pairs, written as the definition says."""
    correct = np.ones(len(known), dtype=bool) if correct is None else correct
    total = 0.0
    for score, right in zip(known, correct, strict=True):
        for other in unknown:
            if right:
                total += 1.0 if score > other else 0.5 if score == other else 0.0
    return total / (len(known) * len(unknown))


def literal_oscr(known, unknown, correct):
    """Every threshold counted from scratch, then the area by trapezoids."""
    points = [(0.0, 0.0)]
    for threshold in sorted({*known, *unknown}, reverse=True):
        ccr = sum(right and score >= threshold for score, right in zip(known, correct, strict=True)) / len(known)
        fpr = sum(score >= threshold for score in unknown) / len(unknown)
        points.append((fpr, ccr))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def literal_fpr(known, unknown, tpr):
    """The largest threshold that accepts enough knowns, tried one after another."""
    for threshold in sorted({*known, *unknown}, reverse=True):
        if sum(score >= threshold for score in known) / len(known) >= tpr:
            return sum(score >= threshold for score in unknown) / len(unknown)
    raise AssertionError("the lowest threshold accepts everything")


def stacked(known, unknown):
    return np.r_[np.ones(len(known)), np.zeros(len(unknown))], np.r_[known, unknown]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auroc_and_aupr_agree_with_scikit_learn(seed, ties):
    known, unknown, _ = sample(seed, ties=ties)
    truth, values = stacked(known, unknown)
    assert metrics.auroc(known, unknown) == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    assert metrics.aupr_known(known, unknown) == pytest.approx(average_precision_score(truth, values), abs=1e-12)
    assert metrics.aupr_unknown(known, unknown) == pytest.approx(average_precision_score(1 - truth, -values), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_oscr_and_openauc_agree_with_their_literal_definitions(seed, ties):
    known, unknown, correct = sample(seed, n_known=40, n_unknown=30, ties=ties)
    assert metrics.oscr(known, unknown, correct) == pytest.approx(literal_oscr(known, unknown, correct), abs=1e-12)
    assert metrics.openauc(known, unknown, correct) == pytest.approx(literal_auroc(known, unknown, correct), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_oscr_agrees_with_pytorch_ood(seed, ties):
    known, unknown, correct = sample(seed, ties=ties)
    labels = torch.from_numpy(np.r_[np.zeros(len(known)), np.full(len(unknown), -1)]).long()
    predictions = torch.from_numpy(np.r_[~correct, np.zeros(len(unknown), dtype=bool)]).long()
    # there a larger score is less known
    other = pytorch_ood.oscr_score(torch.from_numpy(-np.r_[known, unknown]), predictions, labels)
    assert metrics.oscr(known, unknown, correct) == pytest.approx(other, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("tpr", [0.5, 0.8, 0.95, 1.0])
def test_fpr_at_tpr_agrees_with_independent_implementations(tpr, ties):
    known, unknown, _ = sample(3, n_known=100, ties=ties)
    value = metrics.fpr_at_tpr(known, unknown, tpr)
    assert value == pytest.approx(literal_fpr(known, unknown, tpr), abs=1e-12)
    fprs, tprs, _ = sklearn_roc_curve(*stacked(known, unknown), drop_intermediate=False)
    assert value == pytest.approx(fprs[np.argmax(tprs >= tpr)], abs=1e-12)
    # there the positives are the images labelled below 0, found by a high score: here the knowns
    labels = torch.from_numpy(np.r_[np.full(len(known), -1), np.zeros(len(unknown))])
    other = pytorch_ood.fpr_at_tpr(torch.from_numpy(np.r_[known, unknown]), labels, tpr)
    assert value == pytest.approx(float(other), abs=1e-12)


@pytest.mark.parametrize("n_known", [20, 40, 60, 100, 140, 1000])
def test_fpr95_accepts_exactly_95_percent_of_the_knowns_where_that_is_possible(n_known):
    # knowns 1 .. n; an unknown just above the last rejected known counts, one just below the first accepted does not
    known = np.arange(1, n_known + 1, dtype=float)
    lowest_accepted = n_known - round(0.95 * n_known) + 1
    assert metrics.fpr_at_tpr(known, np.array([lowest_accepted - 0.5])) == 0.0
    assert metrics.fpr_at_tpr(known, np.array([float(lowest_accepted)])) == 1.0


@pytest.mark.parametrize("tpr", [0.0, -0.1, 1.1, float("nan")])
def test_fpr_at_tpr_refuses_a_rate_out_of_range(tpr):
    with pytest.raises(SettingsError, match=r"tpr .* is not in \(0, 1\]"):
        metrics.fpr_at_tpr(np.ones(2), np.zeros(2), tpr)


def test_perfect_and_inverted_separation():
    high, low = np.array([3.0, 4.0, 5.0, 6.0]), np.array([0.0, 1.0])
    correct = np.array([True, True, False, True])
    assert metrics.auroc(high, low) == 1.0
    assert metrics.aupr_known(high, low) == metrics.aupr_unknown(high, low) == 1.0
    assert metrics.fpr_at_tpr(high, low) == 0.0
    assert metrics.oscr(high, low, correct) == metrics.openauc(high, low, correct) == metrics.accuracy(correct) == 0.75
    assert metrics.auroc(low, high) == 0.0
    assert metrics.fpr_at_tpr(low, high) == 1.0
    assert metrics.oscr(low, high, np.array([True, True])) == 0.0


def test_constant_scores_are_chance():
    known, unknown, correct = np.ones(4), np.ones(6), np.array([True, True, True, False])
    assert metrics.auroc(known, unknown) == 0.5
    assert metrics.aupr_known(known, unknown) == 0.4
    assert metrics.aupr_unknown(known, unknown) == 0.6
    assert metrics.fpr_at_tpr(known, unknown) == 1.0
    assert metrics.oscr(known, unknown, correct) == 0.375


def test_infinite_scores_are_ordinary_ranks():
    assert metrics.auroc(np.array([np.inf, 0.0]), np.array([-np.inf, np.inf])) == pytest.approx(2.5 / 4)


def test_no_known_is_correct():
    assert metrics.oscr(np.ones(3), np.zeros(3), np.zeros(3, dtype=bool)) == 0.0


# few distinct values, so that ties within and between the sets are common
few_values = st.lists(st.integers(-4, 4).map(float), min_size=1, max_size=25).map(np.array)


@given(few_values, few_values, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_properties(known, unknown, random):
    correct = np.array([random.random() < 0.7 for _ in known])
    values = {name: function(known, unknown) for name, function in PAIRED.items()}
    values["fpr95"] = metrics.fpr_at_tpr(known, unknown)
    values["oscr"] = metrics.oscr(known, unknown, correct)

    assert all(0 <= value <= 1 for value in values.values())
    assert values["auroc"] == pytest.approx(literal_auroc(known, unknown), abs=1e-12)
    assert values["oscr"] == pytest.approx(literal_oscr(known, unknown, correct), abs=1e-12)
    assert values["fpr95"] == pytest.approx(literal_fpr(known, unknown, 0.95), abs=1e-12)

    # swapping the sets: AUROC becomes its complement, and the two AUPR change places under a change of sign
    assert metrics.auroc(unknown, known) == pytest.approx(1 - values["auroc"], abs=1e-12)
    assert metrics.auroc(-known, -unknown) == pytest.approx(1 - values["auroc"], abs=1e-12)
    assert metrics.aupr_known(-unknown, -known) == pytest.approx(values["aupr_unknown"], abs=1e-12)

    # OSCR is at most AUROC and accuracy, equal to AUROC if all are right, and OSCR = OpenAUC
    assert values["oscr"] <= min(values["auroc"], metrics.accuracy(correct)) + 1e-12
    assert metrics.oscr(known, unknown, np.ones_like(correct)) == pytest.approx(values["auroc"], abs=1e-12)
    assert metrics.openauc(known, unknown, correct) == values["oscr"]

    # a strictly rising map and another order of the images change nothing
    order, other_order = random.sample(range(len(known)), len(known)), random.sample(range(len(unknown)), len(unknown))
    moved_known, moved_unknown = np.exp(known[order]) * 3 - 7, np.exp(unknown[other_order]) * 3 - 7
    for name, function in PAIRED.items():
        assert function(moved_known, moved_unknown) == pytest.approx(values[name], abs=1e-12)
    assert metrics.fpr_at_tpr(moved_known, moved_unknown) == values["fpr95"]
    assert metrics.oscr(moved_known, moved_unknown, correct[order]) == pytest.approx(values["oscr"], abs=1e-12)


@given(few_values, few_values, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_weight_counts_as_that_many_copies(known, unknown, seed):
    generator = np.random.default_rng(seed)
    columns = 3
    correct = generator.random(known.size) < 0.7
    known_weights = generator.integers(0, 4, (known.size, columns))
    unknown_weights = generator.integers(0, 4, (unknown.size, columns))
    # a resample is never empty
    known_weights[generator.integers(known.size)] += 1
    unknown_weights[generator.integers(unknown.size)] += 1
    ranking = metrics.Ranking(known, unknown, correct)
    computed = metrics.compute(metrics.METRICS, ranking.weighted(known_weights, unknown_weights))
    for column in range(columns):
        copies = (
            np.repeat(known, known_weights[:, column]),
            np.repeat(unknown, unknown_weights[:, column]),
            np.repeat(correct, known_weights[:, column]),
        )
        expected = metrics.compute(metrics.METRICS, metrics.Ranking(*copies).weighted())
        for name in metrics.METRICS:
            assert computed[name][column] == pytest.approx(expected[name][0], abs=1e-12), name


@pytest.mark.parametrize("ties", [False, True])
def test_curves_agree_with_scikit_learn_and_with_the_areas(ties):
    known, unknown, correct = sample(8, ties=ties)
    fpr, tpr, thresholds = metrics.roc_curve(known, unknown)
    for ours, theirs in zip(
        (fpr, tpr, thresholds), sklearn_roc_curve(*stacked(known, unknown), drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auroc(known, unknown), abs=1e-12)

    fpr, ccr, thresholds = metrics.oscr_curve(known, unknown, correct)
    assert np.trapezoid(ccr, fpr) == pytest.approx(metrics.oscr(known, unknown, correct), abs=1e-12)
    assert (fpr[0], ccr[0], thresholds[0]) == (0.0, 0.0, np.inf)
    assert (fpr[-1], ccr[-1]) == (1.0, metrics.accuracy(correct))
    middle = len(thresholds) // 2
    assert ccr[middle] == np.mean(correct & (known >= thresholds[middle]))
    assert fpr[middle] == np.mean(unknown >= thresholds[middle])


def test_a_curve_on_a_grid_takes_the_upper_end_of_a_jump_and_straight_lines_between():
    x = np.array([0.0, 0.0, 0.5, 0.5, 1.0])
    y = np.array([0.0, 0.2, 0.4, 0.8, 1.0])
    grid = np.array([0.0, 0.25, 0.49, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(metrics.on_grid(x, y, grid), [0.2, 0.3, 0.396, 0.8, 0.9, 1.0])


def test_a_fine_grid_keeps_the_area():
    known, unknown, correct = sample(9, n_known=2000, n_unknown=3000)
    grid = np.linspace(0, 1, 2001)
    x, y, _ = metrics.oscr_curve(known, unknown, correct)
    assert np.trapezoid(metrics.on_grid(x, y, grid), grid) == pytest.approx(
        metrics.oscr(known, unknown, correct), abs=1e-3
    )


def test_a_million_scores_take_a_few_tenths_of_a_second():
    generator = np.random.default_rng(0)
    known, unknown = generator.normal(1, 1, 500_000), generator.normal(0, 1, 500_000)
    correct = generator.random(500_000) < 0.8
    # processor time: other work on the machine does not count
    start = time.process_time()
    value = metrics.oscr(known, unknown, correct)
    assert time.process_time() - start < 1.0
    assert value == pytest.approx(0.8 * 0.7602, abs=0.003)


EMPTY = np.array([])
GOOD = np.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("known", "unknown", "message"),
    [
        (EMPTY, GOOD, "there is no known image to evaluate"),
        (GOOD, EMPTY, "there is no unknown image to evaluate"),
        (np.array([1.0, np.nan]), GOOD, "1 of 2 known scores are NaN"),
        (GOOD, np.array([np.nan, np.nan]), "2 of 2 unknown scores are NaN"),
        (np.ones((2, 2)), GOOD, r"known scores have shape \[2, 2\]"),
        (GOOD, np.float64(1.0), r"unknown scores have shape \[\]"),
    ],
)
@pytest.mark.parametrize("function", [*PAIRED.values(), metrics.fpr_at_tpr, metrics.roc_curve])
def test_scores_that_cannot_be_evaluated_are_refused(function, known, unknown, message):
    with pytest.raises(DataError, match=message):
        function(known, unknown)


@pytest.mark.parametrize("function", [metrics.oscr, metrics.openauc, metrics.oscr_curve])
def test_correctness_must_match_the_known_scores(function):
    with pytest.raises(DataError, match="2 known scores but 3 known_correct values"):
        function(GOOD, GOOD, np.ones(3, dtype=bool))
    with pytest.raises(DataError, match="dtype int64; it must be bool"):
        function(GOOD, GOOD, np.array([0, 1]))


def test_oscr_of_a_ranking_without_correctness_is_refused():
    with pytest.raises(DataError, match="oscr and openauc need known_correct"):
        metrics.compute(["oscr"], metrics.Ranking(GOOD, GOOD).weighted())


def test_accuracy():
    assert metrics.accuracy(np.array([True, False, True, True])) == 0.75
    with pytest.raises(DataError, match="accuracy needs at least one known image"):
        metrics.accuracy(np.array([], dtype=bool))


def test_an_unknown_metric_suggests_the_nearest():
    with pytest.raises(SettingsError, match=r"unknown metric 'auoc'; did you mean .*'auroc'"):
        metrics.compute(["auoc"], metrics.Ranking(GOOD, GOOD).weighted())

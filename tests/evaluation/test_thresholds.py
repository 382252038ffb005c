"""Thresholds and the exact intervals of their rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from openset_distill.core.errors import DataError, SettingsError
from openset_distill.evaluation.metrics import fpr_at_tpr
from openset_distill.evaluation.thresholds import at_acceptance, at_false_acceptance, exact_interval, rate


@pytest.mark.parametrize(("accepted", "images"), [(0, 1), (1, 1), (0, 30), (30, 30), (95, 100), (3, 7), (500, 10_000)])
def test_intervals_are_those_of_scipy(accepted, images):
    expected = binomtest(accepted, images).proportion_ci(0.95, "exact")
    assert exact_interval(accepted, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99, 1.0])
@pytest.mark.parametrize("n", [1, 2, 19, 20, 100, 101])
def test_the_threshold_is_the_largest_that_accepts_enough(level, n):
    scores = np.random.default_rng(n).normal(size=n).round(1)  # with ties
    point = at_acceptance(scores, level, source="test")
    assert np.mean(scores >= point.threshold) >= level
    larger = scores[scores > point.threshold]
    assert not larger.size or np.mean(scores >= larger.min()) < level
    assert point.known.accepted == np.count_nonzero(scores >= point.threshold)
    assert point.beyond == n - point.known.accepted


def test_false_acceptance_at_95_percent_is_the_metric_fpr95():
    generator = np.random.default_rng(0)
    known, unknown = generator.normal(1, 1, 200), generator.normal(0, 1, 150)
    point = at_acceptance(known, 0.95, unknown=unknown, source="test")
    assert point.unknown.rate == pytest.approx(fpr_at_tpr(known, unknown))


@pytest.mark.parametrize("level", [0.0, 0.05, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("n", [1, 10, 100])
def test_at_most_the_wanted_part_of_the_unknowns_is_accepted(level, n):
    generator = np.random.default_rng(n)
    known, unknown = generator.normal(1, 1, 50), generator.normal(size=n).round(1)
    point = at_false_acceptance(known, unknown, level, source="test")
    assert np.mean(unknown >= point.threshold) <= level
    lower = unknown[unknown < point.threshold]
    assert np.mean(unknown >= lower.max()) > level


def test_the_stated_interval_covers_new_images_as_often_as_it_says():
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        point = at_acceptance(generator.uniform(size=80), 0.9, source="test")
        inside += point.known.low <= 1 - point.threshold <= point.known.high
    assert inside / 400 >= 0.93


def test_few_images_beyond_the_threshold_are_warned_of():
    scores = np.arange(100.0)
    warning = at_acceptance(scores, 0.95, source="test").warning()
    assert "5 known images below" in warning
    assert "400 known images would be enough" in warning
    assert at_acceptance(np.arange(400.0), 0.95, source="test").warning() is None
    assert at_acceptance(scores, 1.0, source="test").warning() is not None
    assert "at or above" in at_false_acceptance(scores, scores, 0.05, source="test").warning()


@pytest.mark.parametrize("level", [0, -1, 1.01, float("nan")])
def test_rates_out_of_range_are_refused(level):
    with pytest.raises(SettingsError, match="not in"):
        at_acceptance(np.ones(3), level, source="test")


def test_scores_that_cannot_be_calibrated_with():
    with pytest.raises(DataError, match="no known image"):
        at_acceptance(np.ones(0), source="test")
    with pytest.raises(DataError, match="not finite"):
        at_acceptance(np.array([1, np.nan]), source="test")
    with pytest.raises(DataError):
        rate(np.ones(0), 0.5)

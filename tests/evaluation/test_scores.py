"""Scores: values by hand and by scipy, extreme logits, and the one sign convention."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from openset_distill.core.errors import SettingsError
from openset_distill.evaluation import scores

LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5], [-3.0, -1.0, -2.0]], dtype=np.float32)
FEATURES = np.array([[3.0, 4.0], [0.0, 0.0], [-1.0, 0.0]], dtype=np.float32)


def test_maximum_logit_is_the_largest_of_each_row():
    assert scores.maximum_logit(LOGITS).tolist() == [2.0, 0.5, -1.0]


def test_msp_energy_and_entropy_agree_with_scipy():
    logits = LOGITS.astype(np.float64)
    np.testing.assert_allclose(scores.msp(LOGITS), softmax(logits, axis=1).max(axis=1), rtol=1e-14)
    np.testing.assert_allclose(scores.energy(LOGITS), logsumexp(logits, axis=1), rtol=1e-14)
    np.testing.assert_allclose(scores.energy(LOGITS, 2.5), 2.5 * logsumexp(logits / 2.5, axis=1), rtol=1e-14)
    np.testing.assert_allclose(scores.negative_entropy(LOGITS), -entropy(softmax(logits, axis=1), axis=1), rtol=1e-14)


def test_feature_norm_is_euclidean():
    assert scores.feature_norm(FEATURES).tolist() == [5.0, 0.0, 1.0]


def test_energy_tends_to_the_maximum_logit_when_the_temperature_falls():
    np.testing.assert_allclose(scores.energy(LOGITS[[0, 2]], 0.01), [2.0, -1.0], atol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_energy_refuses_a_temperature_that_is_not_positive(temperature):
    with pytest.raises(SettingsError, match=r"temperature .* is not above 0"):
        scores.energy(LOGITS, temperature)


@pytest.mark.parametrize("name", scores.SCORES)
def test_extreme_logits_stay_finite_and_no_warning_is_raised(name):
    logits = np.array([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4], [3e38, -3e38, 0.0]], dtype=np.float32)
    with np.errstate(all="raise", under="ignore"):
        values = scores.score(name, FEATURES, logits)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("name", scores.SCORES)
def test_every_score_is_float64_of_shape_n_and_leaves_its_inputs_alone(name):
    features, logits = FEATURES.copy(), LOGITS.copy()
    values = scores.score(name, features, logits)
    assert values.dtype == np.float64
    assert values.shape == (3,)
    np.testing.assert_array_equal(features, FEATURES)
    np.testing.assert_array_equal(logits, LOGITS)


@pytest.mark.parametrize("name", scores.SCORES)
def test_larger_means_more_known(name):
    # the known image has a long feature vector and one logit that stands out
    features = np.array([[10.0, 10.0], [1.0, 1.0]])
    logits = np.array([[10.0, 0.0, 0.0], [1.0, 0.9, 0.8]])
    known, unknown = scores.score(name, features, logits)
    assert known > unknown


@pytest.mark.parametrize("name", ["msp", "negative_entropy"])
@given(
    logits=arrays(np.float64, (4, 5), elements=st.floats(-50, 50)),
    shift=st.floats(-100, 100),
)
@settings(max_examples=50, deadline=None)
def test_probability_scores_ignore_a_shift_of_all_logits(name, logits, shift):
    before = scores.score(name, FEATURES, logits)
    after = scores.score(name, FEATURES, logits + shift)
    np.testing.assert_allclose(after, before, atol=1e-9)


def test_bounds_at_uniform_and_certain_predictions():
    uniform, certain = np.zeros((1, 4)), np.array([[1000.0, 0.0, 0.0, 0.0]])
    assert scores.msp(uniform)[0] == pytest.approx(0.25)
    assert scores.msp(certain)[0] == 1.0
    assert scores.negative_entropy(uniform)[0] == pytest.approx(-np.log(4))
    assert scores.negative_entropy(certain)[0] == 0.0


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(SettingsError, match="unknown score 'maximum_logits'; did you mean 'maximum_logit'"):
        scores.score("maximum_logits", FEATURES, LOGITS)

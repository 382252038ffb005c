"""Which images the picture of features draws."""

from __future__ import annotations

import numpy as np
import pytest

from openset_distill.analysis.embedding import balanced_sample


@pytest.mark.parametrize(
    ("known", "unknown", "samples", "expected"),
    [
        ([50] * 20, 9000, 1000, ([25] * 20, 500)),  # Tiny-ImageNet: a plain draw has about 100 known images
        ([50, 50], 10, 60, ([25, 25], 10)),
        ([3, 4], 100, 60, ([3, 4], 53)),
        ([2, 40], 40, 40, ([2, 18], 20)),
        ([5, 5], 5, 60, ([5, 5], 5)),
        ([5, 5], 5, 1, ([1, 0], 0)),
    ],
)
def test_half_are_known_and_classes_have_the_same_share(known, unknown, samples, expected):
    labels = np.repeat([*range(len(known)), -1], [*known, unknown])
    np.random.default_rng(1).shuffle(labels)
    chosen = balanced_sample(labels, samples, seed=0)
    assert (np.diff(chosen) > 0).all()
    of_class = sorted(np.sum(labels[chosen] == label) for label in range(len(known)))
    assert of_class == sorted(expected[0])
    assert np.sum(labels[chosen] < 0) == expected[1]
    assert (chosen == balanced_sample(labels, samples, seed=0)).all()

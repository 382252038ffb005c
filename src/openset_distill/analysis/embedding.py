"""A picture of features in two dimensions."""

from __future__ import annotations

import numpy as np


def balanced_sample(labels: np.ndarray, samples: int, *, seed: int) -> np.ndarray:
    """Positions of at most `samples` images in ascending order: half of them known, and as many of each known class.

    Where one half has too few images the other one has more. Test sets may have ten unknown images for each known one,
    which a plain draw would leave too few of to be seen.

    Args:
        labels: int `[n]`, -1 for unknown.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    turn = np.zeros(len(labels), dtype=np.int64)  # an image's position among those of its class
    for label in np.unique(shuffled):
        turn[shuffled == label] = np.arange(np.sum(shuffled == label))
    is_known = shuffled >= 0
    known, unknown = order[is_known][np.argsort(turn[is_known], kind="stable")], order[~is_known]
    n_known = min(len(known), samples - min(len(unknown), samples // 2))
    return np.sort(np.concatenate([known[:n_known], unknown[: samples - n_known]]))


def embed(features: np.ndarray, *, seed: int) -> np.ndarray:
    """A 2-D picture of features, `[n, d]` -> float64 `[n, 2]`: t-SNE (van der Maaten and Hinton 2008).

    It shows neighbourhoods; distances between clusters and their sizes mean nothing.
    """
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(
        features.astype(np.float64)
    )

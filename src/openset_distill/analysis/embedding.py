"""A picture of features in two dimensions."""

from __future__ import annotations

import numpy as np


def embed(features: np.ndarray, *, seed: int) -> np.ndarray:
    """A 2-D picture of features, `[n, d]` -> float64 `[n, 2]`: t-SNE (van der Maaten and Hinton 2008).

    It shows neighbourhoods; distances between clusters and their sizes mean nothing.
    """
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(n_components=2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(
        features.astype(np.float64)
    )

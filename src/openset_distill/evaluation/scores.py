"""Open-set scores: how much a test image looks like one of the known classes.

One convention holds for all of them: **larger = more known**. Inputs are numpy arrays, `features [n, d]` and
`logits [n, classes]`; the result is float64 `[n]`, computed in float64 whatever the inputs are.

A new score is one function and one line in `SCORES`. What must be fitted to training images first is a detector
(`detectors`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..core.errors import SettingsError, nearest


def maximum_logit(logits: np.ndarray) -> np.ndarray:
    """The largest logit, max_c f_c(x): the criterion that the asymmetric distillation paper uses.

    Unlike the softmax probability it keeps the magnitude of the logits.

    Args:
        logits: `[n, classes]`.

    Returns:
        float64 `[n]`.

    Source: Vaze et al., "Open-set recognition: a good closed-set classifier is all you need?", ICLR 2022;
    Hendrycks et al., "Scaling out-of-distribution detection for real-world settings", ICML 2022.
    """
    return np.max(logits, axis=1).astype(np.float64)


def msp(logits: np.ndarray) -> np.ndarray:
    """Maximum softmax probability, max_c exp(f_c) / sum_k exp(f_k), in (0, 1].

    A lead of more than about 37 over all the other logits rounds to exactly 1: such images tie.

    Args:
        logits: `[n, classes]`.

    Returns:
        float64 `[n]`.

    Source: Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution examples in neural
    networks", ICLR 2017.
    """
    return 1.0 / np.exp(_shifted(logits)).sum(axis=1)


def energy(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Negative free energy, T * log sum_c exp(f_c / T); it tends to the maximum logit as T falls to 0.

    Args:
        logits: `[n, classes]`.
        temperature: T, above 0.

    Returns:
        float64 `[n]`.

    Raises:
        SettingsError: the temperature is not above 0.

    Source: Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020; here with the sign
    that makes larger = more known.
    """
    if not temperature > 0:
        raise SettingsError(f"score 'energy': temperature {temperature} is not above 0; use for example 1.0")
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    log_sum = np.log(np.exp(_shifted(scaled)).sum(axis=1))
    return temperature * (scaled.max(axis=1) + log_sum)


def negative_entropy(logits: np.ndarray) -> np.ndarray:
    """Negative Shannon entropy of the softmax, sum_c p_c log p_c, in nats, from -log(classes) to 0.

    Args:
        logits: `[n, classes]`.

    Returns:
        float64 `[n]`.

    Source: Chan, Rottmann and Gottschalk, "Entropy maximization and meta classification for out-of-distribution
    detection in semantic segmentation", ICCV 2021.
    """
    shifted = _shifted(logits)
    log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    # a probability that underflows to 0 meets a finite logarithm here, so the product is 0 and not NaN
    return (np.exp(log_probability) * log_probability).sum(axis=1)


def feature_norm(features: np.ndarray) -> np.ndarray:
    """Euclidean norm of the feature vector, ||z(x)||_2.

    Args:
        features: `[n, d]`.

    Returns:
        float64 `[n]`.

    Source: Dhamija, Günther and Boult, "Reducing network agnostophobia", NeurIPS 2018; as an open-set criterion,
    Vaze et al., ICLR 2022.
    """
    return np.linalg.norm(np.asarray(features, dtype=np.float64), axis=1)


def gradnorm(features: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """L1 norm of the gradient of KL(uniform || softmax) with respect to the weights of a linear head.

    The gradient is the outer product of (softmax - uniform) and the features, so its norm is the product of theirs:
    no head and no backward pass are needed.

    Args:
        features: `[n, d]`, the head's inputs.
        logits: `[n, classes]`, its outputs.

    Returns:
        float64 `[n]`.

    Source: Huang, Geng and Li, "On the importance of gradients for detecting distributional shifts in the wild",
    NeurIPS 2021, equations 6 to 8, with temperature 1 and divided by the number of classes, as in pytorch-ood.
    """
    exponentials = np.exp(_shifted(logits))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    length = np.abs(np.asarray(features, dtype=np.float64)).sum(axis=1)
    return np.abs(softmax - 1 / softmax.shape[1]).sum(axis=1) * length


def _shifted(logits: np.ndarray) -> np.ndarray:
    """Logits less their row's maximum, float64 `[n, classes]`: the exponentials cannot overflow."""
    logits = np.asarray(logits, dtype=np.float64)
    return logits - logits.max(axis=1, keepdims=True)


BLOCK = 16_384

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]

SCORES: dict[str, Score] = {
    "maximum_logit": lambda features, logits: maximum_logit(logits),
    "msp": lambda features, logits: msp(logits),
    "energy": lambda features, logits: energy(logits),
    "negative_entropy": lambda features, logits: negative_entropy(logits),
    "feature_norm": lambda features, logits: feature_norm(features),
    "gradnorm": gradnorm,
}


def score(name: str, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """The score called `name` in `SCORES`, float64 `[n]`, larger = more known.

    Every score looks at one image at a time, so they are taken in blocks: what is computed on the way in double
    precision does not grow with the number of images.

    Raises:
        SettingsError: there is no score of that name.
    """
    if name not in SCORES:
        raise SettingsError(f"unknown score {name!r}; {nearest(name, SCORES)}")
    blocks = [slice(start, start + BLOCK) for start in range(0, max(len(logits), 1), BLOCK)]
    return np.concatenate([SCORES[name](features[block], logits[block]) for block in blocks])
